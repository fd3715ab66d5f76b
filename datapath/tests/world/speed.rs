//! temporary
use crate::lab::*;
use model::*;
use std::sync::Arc;
use std::time::Instant;

#[test]
#[ignore = "speed"]
fn speed() {
    in_node(async |bpffs| {
        let node = Node::start(datapath::Config {
            resync: std::time::Duration::from_secs(600),
            ..datapath::Config { policy_max: 131072 * 2, ..config(&bpffs) }
        })
        .await;
        for id in 1..=100u16 {
            node.must(|d| add(d, &endpoint(id, 300 + u32::from(id)))).await;
        }
        let mut times = vec![];
        for id in 101..=200u16 {
            let e = endpoint(id, 300 + u32::from(id));
            let t = Instant::now();
            node.must(|d| add(d, &e)).await;
            times.push(t.elapsed());
        }
        times.sort();
        println!("add: median {:?} p99 {:?} max {:?}", times[50], times[98], times[99]);
        let mut times = vec![];
        for id in 101..=200u16 {
            let t = Instant::now();
            node.must(|d| remove(d, id)).await;
            times.push(t.elapsed());
        }
        times.sort();
        println!("remove: median {:?} p99 {:?} max {:?}", times[50], times[98], times[99]);
        for n in [10u16, 100, 300] {
            let maps: Vec<_> = (0..100)
                .map(|i| {
                    let list: Vec<_> =
                        (0..n).map(|p| (300 + p as u32 % 50, Protocol::TCP, Some(1000 + p + i))).collect();
                    policy(&list)
                })
                .collect();
            let t = Instant::now();
            node.must(|d| {
                for (i, (_, m)) in d.policies.iter_mut().enumerate() {
                    *m = maps[i % 100].clone();
                }
            })
            .await;
            println!("policies of 100 endpoints x {n}: {:?}", t.elapsed());
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        let t = Instant::now();
        node.must(|d| d.revision += 1).await;
        println!("empty round: {:?}", t.elapsed());
        let mut node = node;
        let t = Instant::now();
        node.restart().await;
        println!("restart: {:?}", t.elapsed());
        let _ = Arc::new(());
    });
}
