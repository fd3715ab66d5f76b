//! `lab-probe`: the suite's own traffic. It runs in the network namespace it is started in.
//!
//!     lab-probe serve tcp:80 udp:53 sctp:90 …   echo on each port, both address families; prints "listening"
//!     lab-probe ask tcp|udp|sctp HOST:PORT [MS [BYTES]]  one request; exit code 0 when the answer came within MS (1000).
//!                                               With BYTES it is so long, and its answer too
//!     lab-probe sink PORT                       prints "listening", then the text of each datagram to the UDP port
//!     lab-probe packet HOST HEX…                sends ready IP packets to HOST, whatever they say of themselves
//!     lab-probe hammer keep|connect|denied HOST:PORT  requests until standard input ends; prints a tally as JSON.
//!                                               `keep`: over one connection, `connect`: a connection for each, `denied`:
//!                                               the same, but those that are answered are the failed ones
//!     lab-probe measure rr|crr HOST:PORT SECONDS  as many requests as go; prints rate and latencies as JSON. `rr`: over
//!                                               one connection, `crr`: a connection for each, closed by a reset
//!     lab-probe http HOST:PORT                  one HTTP request; exit code 0 when it is answered within a second
//!     lab-probe open HOST:PORT                  one connection: each line read from standard input is sent, and what
//!                                               came back within a second is printed as "ok" or "lost"
#![allow(clippy::print_stdout)]

mod raw;

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", ref ports @ ..] => serve(ports),
        ["ask", protocol, target] => ask(protocol, target.parse()?, Duration::from_secs(1), 4),
        ["ask", protocol, target, ms] => ask(protocol, target.parse()?, Duration::from_millis(ms.parse()?), 4),
        ["ask", protocol, target, ms, bytes] => {
            ask(protocol, target.parse()?, Duration::from_millis(ms.parse()?), bytes.parse()?)
        }
        ["try", ms, ref asks @ ..] => try_all(Duration::from_millis(ms.parse()?), asks),
        ["sink", port] => sink(port.parse()?),
        ["packet", host, ref packets @ ..] => packets.iter().try_for_each(|hex| raw::send(host.parse()?, hex)),
        ["hammer", mode, target] => hammer(mode, target.parse()?),
        ["http", target] => http(target.parse()?),
        ["open", target] => open(target.parse()?),
        ["measure", mode, target, seconds] => measure(mode, target.parse()?, Duration::from_secs_f64(seconds.parse()?)),
        _ => bail!("usage: lab-probe serve PROTO:PORT… | ask PROTO ADDR [MS] | hammer keep|connect ADDR | open ADDR"),
    }
}

fn serve(ports: &[&str]) -> Result<()> {
    for port in ports {
        let (protocol, port) = port.split_once(':').context("PROTO:PORT")?;
        let address = SocketAddr::new("::".parse()?, port.parse()?);
        match protocol {
            "tcp" => {
                let listener = TcpListener::bind(address)?;
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        std::thread::spawn(move || echo(stream));
                    }
                });
            }
            "udp" => {
                let socket = UdpSocket::bind(address)?;
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 65_536];
                    while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..n], peer);
                    }
                });
            }
            "sctp" => raw::answer_associations(address.port())?,
            other => bail!("{other}: tcp, udp or sctp"),
        }
    }
    println!("listening");
    loop {
        std::thread::park();
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn ask(protocol: &str, target: SocketAddr, limit: Duration, bytes: usize) -> Result<()> {
    let request: Vec<u8> = (0..bytes).map(|n| b"ping"[n % 4]).collect();
    match protocol {
        "tcp" => {
            let mut stream = connect(target, limit)?;
            // The other side answers while it is asked: who does not listen meanwhile is not heard to the end.
            let mut sending = stream.try_clone()?;
            let asked = request.clone();
            let sent = std::thread::spawn(move || sending.write_all(&asked));
            let mut answer = vec![0; bytes];
            stream.read_exact(&mut answer).context("no answer")?;
            sent.join().map_err(|_| anyhow::anyhow!("the sender ended"))?.context("send")?;
            ensure!(answer == request, "another answer");
            Ok(())
        }
        "udp" => {
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(limit))?;
            socket.send_to(&request, target)?;
            let mut buffer = vec![0; 65_536];
            let (n, from) = socket.recv_from(&mut buffer).context("no answer")?;
            ensure!(from == target && buffer[..n] == request, "{from} answered {n} bytes");
            Ok(())
        }
        "sctp" => raw::ask_for_association(target, limit),
        other => bail!("{other}: tcp, udp or sctp"),
    }
}

/// Asks at once for all of `PROTO/ADDR` and prints a line for each, in their order: `answered`, `refused`, or `silent`.
fn try_all(limit: Duration, asks: &[&str]) -> Result<()> {
    let asks: Vec<(String, SocketAddr)> = asks
        .iter()
        .map(|ask| {
            let (protocol, target) = ask.split_once('/').context("PROTO/ADDR")?;
            Ok((protocol.to_owned(), target.parse()?))
        })
        .collect::<Result<_>>()?;
    for some in asks.chunks(AT_ONCE) {
        let running: Vec<_> = some
            .iter()
            .cloned()
            .map(|(protocol, target)| std::thread::spawn(move || outcome(&protocol, target, limit)))
            .collect();
        for outcome in running {
            println!("{}", outcome.join().map_err(|_| anyhow::anyhow!("a request ended"))?);
        }
    }
    Ok(())
}

/// How many requests are under way at once.
const AT_ONCE: usize = 64;

fn outcome(protocol: &str, target: SocketAddr, limit: Duration) -> &'static str {
    let result = if protocol == "udp" { ask_connected(target, limit) } else { ask(protocol, target, limit, 4) };
    let Err(error) = result else { return "answered" };
    let refused = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused);
    if refused { "refused" } else { "silent" }
}

/// A datagram of a socket that is told when nobody is there.
fn ask_connected(target: SocketAddr, limit: Duration) -> Result<()> {
    let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(target)?;
    socket.send(b"ping")?;
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer)?;
    ensure!(&buffer[..n] == b"ping", "another answer");
    Ok(())
}

fn sink(port: u16) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new("::".parse()?, port))?;
    println!("listening");
    let mut buffer = vec![0; 65_536];
    loop {
        let (n, _) = socket.recv_from(&mut buffer)?;
        println!("{}", String::from_utf8_lossy(&buffer[..n]));
    }
}

fn connect(target: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, limit).context("connect")?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping").context("send")?;
    let mut buffer = [0; 4];
    stream.read_exact(&mut buffer).context("no answer")?;
    ensure!(&buffer == b"ping", "answered {buffer:?}");
    Ok(())
}

/// A request that takes longer than this failed. TCP repeats a lost SYN after one second: a lost packet is a slow
/// request, and `longest_ms` tells.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a request that should be denied waits for an answer.
const DENIED: Duration = Duration::from_millis(250);

/// Requests that a hammer makes even if it is stopped at once.
const FEWEST: u64 = 5;

fn hammer(mode: &str, target: SocketAddr) -> Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
    });
    let (mut requests, mut errors, mut failed, mut longest) = (0u64, Vec::new(), 0u64, Duration::ZERO);
    let mut kept: Option<TcpStream> = None;
    // What goes on meanwhile may take a fast machine no time: a tally of one request would say nothing.
    while !STOP.load(Ordering::Relaxed) || requests < FEWEST {
        let start = Instant::now();
        let result = match mode {
            "keep" => (|| {
                if kept.is_none() {
                    ensure!(requests == 0, "the connection broke");
                    kept = Some(connect(target, PATIENCE)?);
                }
                exchange(kept.as_mut().context("no connection")?)
            })(),
            "connect" => connect(target, PATIENCE).and_then(|mut stream| exchange(&mut stream)),
            "denied" => match connect(target, DENIED) {
                Ok(_) => Err(anyhow::anyhow!("it was let through")),
                Err(_) => Ok(()),
            },
            other => bail!("{other}: keep, connect or denied"),
        };
        requests += 1;
        longest = longest.max(start.elapsed());
        if let Err(error) = result {
            failed += 1;
            if errors.len() < 5 {
                errors.push(format!("request {requests}: {error:#}"));
            }
            if mode == "keep" {
                break;
            }
        }
        // Some hundreds of requests a second are enough to notice a gap, and leave the processor to others.
        std::thread::sleep(Duration::from_millis(2));
    }
    let tally = serde_json::json!({
        "requests": requests, "failed": failed, "errors": errors, "longest_ms": longest.as_millis() as u64,
    });
    println!("{tally}");
    Ok(())
}

fn open(target: SocketAddr) -> Result<()> {
    let mut stream = connect(target, Duration::from_secs(1))?;
    println!("open");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", if exchange(&mut stream).is_ok() { "ok" } else { "lost" });
    }
    Ok(())
}

fn measure(mode: &str, target: SocketAddr, duration: Duration) -> Result<()> {
    let mut latencies: Vec<u32> = Vec::with_capacity(1 << 20);
    let mut kept = if mode == "rr" { Some(connect(target, PATIENCE)?) } else { None };
    let start = Instant::now();
    while start.elapsed() < duration {
        let before = Instant::now();
        match &mut kept {
            Some(stream) => byte(stream)?,
            None => {
                let mut stream = connect(target, PATIENCE)?;
                byte(&mut stream)?;
                // A reset spares the client a minute in TIME_WAIT, which would use up its ports.
                nix::sys::socket::setsockopt(
                    &stream,
                    nix::sys::socket::sockopt::Linger,
                    &libc::linger { l_onoff: 1, l_linger: 0 },
                )?;
            }
        }
        latencies.push(before.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: usize| f64::from(latencies.get(latencies.len() * share / 100).copied().unwrap_or(0)) / 1000.0;
    let answer = serde_json::json!({
        "per_second": latencies.len() as f64 / elapsed, "p50_us": at(50), "p99_us": at(99),
    });
    println!("{answer}");
    Ok(())
}

fn byte(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn http(target: SocketAddr) -> Result<()> {
    let mut stream = connect(target, Duration::from_secs(1))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("no answer")?;
    ensure!(&answer == b"HTTP/", "answered {answer:?}");
    Ok(())
}
