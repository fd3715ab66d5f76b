//! The datapath stops and starts while containers talk.

use crate::lab::{Container, Node, config, in_node, policy};
use crate::traffic::{Hope, talk, tcp, tcp_stream};
use datapath::Config;
use model::{Identity, Protocol};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes; seconds of datagrams.
const RECEIVE_BUFFER: usize = 1 << 26;

/// Numbered datagrams from one container to another, until it is stopped.
pub struct Stream {
    stop: Arc<AtomicBool>,
    /// All that was sent is on its way: a silence is the end.
    sent: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
}

impl Stream {
    pub fn start(a: &Container, b: &Container) -> Stream {
        let target = SocketAddr::new(b.v4(), 9000);
        let server = b.namespace.run(|| UdpSocket::bind(target)).unwrap().unwrap();
        let client = a.namespace.run(|| UdpSocket::bind((a.v4(), 0))).unwrap().unwrap();
        // A receiver that is not scheduled for a while loses nothing: what is lost, the datapath lost.
        setsockopt(&server, RcvBufForce, &RECEIVE_BUFFER).unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, all_sent) = (stop.clone(), sent.clone());
        let sender = std::thread::spawn(move || {
            let mut sent = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                client.send_to(&sent.to_ne_bytes(), target).unwrap();
                sent += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        let receiver = std::thread::spawn(move || {
            server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut buffer = [0; 16];
            let mut count = 0;
            loop {
                let ending = all_sent.load(Ordering::Relaxed);
                match server.recv(&mut buffer) {
                    Ok(_) => count += 1,
                    Err(_) if ending => return count,
                    Err(_) => {}
                }
            }
        });
        Stream { stop, sent, sender, receiver }
    }

    /// How many were sent and how many arrived.
    pub fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        self.sent.store(true, Ordering::Relaxed);
        (sent, self.receiver.join().unwrap())
    }
}

#[test]
#[ignore = "needs root: make test"]
fn no_packet_is_lost_and_no_rule_forgotten_over_restarts() {
    in_node(async |bpffs| {
        let mut node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let map = policy(&[(300, Protocol::TCP, Some(80)), (300, Protocol::UDP, None)]);
        node.must(|desired| drop(desired.policies.insert(Identity(301), map))).await;
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        let before = node.handle().tables.policy(b.endpoint.id).unwrap().unwrap().version;
        let stream = Stream::start(&a, &b);
        for _ in 0..5 {
            node.restart().await;
            assert!(talk(&mut client, &mut server), "an open connection goes on");
        }
        // While nothing runs, what is pinned works on.
        node.handle = None;
        assert!(tcp(&a.namespace, &b.namespace, b.v6(), 80, Hope::Passes), "new connections open");
        assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 81, Hope::Dropped), "and the policy holds");
        node.restart().await;
        let (sent, received) = stream.finish();
        assert_eq!(sent, received);
        assert!(sent > 100, "{sent}");
        assert_eq!(
            node.handle().tables.policy(b.endpoint.id).unwrap().unwrap().version,
            before,
            "the same policy stays"
        );
    });
}

#[test]
#[ignore = "needs root: make test"]
fn maps_of_another_size_take_over_without_a_gap() {
    in_node(async |bpffs| {
        let mut node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let map = policy(&[(300, Protocol::TCP, Some(80)), (300, Protocol::UDP, None)]);
        node.must(|desired| drop(desired.policies.insert(Identity(301), map))).await;
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        let before = node.handle().tables.policy(b.endpoint.id).unwrap().unwrap().version;
        let flows = node.handle().tables.conntrack(100).unwrap().len();
        let stream = Stream::start(&a, &b);
        let sizes = |size| Config { policy_max: size, conntrack_max_v4: size, ..config(&bpffs) };
        for size in [8192, 16_384] {
            node.config = sizes(size);
            node.restart().await;
            assert!(talk(&mut client, &mut server));
        }
        let (sent, received) = stream.finish();
        assert_eq!(sent, received);
        let tables = &node.handle().tables;
        assert!(tables.policy(b.endpoint.id).unwrap().unwrap().version > before, "no number is given out twice");
        assert!(tables.conntrack(100).unwrap().len() >= flows, "flows are carried over");
        let info = tables.maps().unwrap().into_iter().find(|map| map.name == "cilium_policy").unwrap();
        assert_eq!(info.max_entries, 16_384);
        assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 81, Hope::Dropped));
    });
}
