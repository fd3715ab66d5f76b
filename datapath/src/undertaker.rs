//! Deletes devices aside. The kernel takes 15 to 20 ms for it, however many go at once, and a round must not wait.
//!
//! Whoever wants a device gone takes it down and puts it into the group of the doomed; what is in that group is deleted
//! here, all of it in one request. A device that an agent left there when it ended goes with the next.
//!
//! The pins of its programs go after it: to detach a program from a device that is there takes as long again.

use crate::links;
use crate::netlink::{Netlink, NetlinkError};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
struct State {
    /// Requests so far, and those that were carried out.
    asked: u64,
    done: u64,
    /// To be removed after the devices.
    pins: Vec<PathBuf>,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the numbers are right at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread in the network namespace of the one that made it.
#[derive(Debug)]
pub struct Undertaker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Undertaker {
    pub fn new() -> Result<Undertaker, NetlinkError> {
        let netlink = Netlink::open()?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread =
            std::thread::Builder::new().name("datapath-links".to_owned()).spawn(move || work(netlink, &theirs));
        let thread = thread.map_err(|source: io::Error| NetlinkError::Open { source })?;
        Ok(Undertaker { shared, thread: Some(thread) })
    }

    /// Has everything deleted that is doomed by now, and then these pins.
    pub fn bury(&self, pins: impl IntoIterator<Item = PathBuf>) {
        let mut state = self.shared.lock();
        state.asked += 1;
        state.pins.extend(pins);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is gone that was doomed before the last `bury`.
    pub fn wait(&self) {
        let mut state = self.shared.lock();
        let asked = state.asked;
        while state.done < asked && !state.stop {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        self.wait();
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(mut netlink: Netlink, shared: &Shared) {
    loop {
        let (asked, pins) = {
            let mut state = shared.lock();
            while state.asked == state.done && !state.stop {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.asked == state.done {
                return;
            }
            (state.asked, std::mem::take(&mut state.pins))
        };
        match netlink.execute(vec![links::delete_doomed()]) {
            Ok(answers) => {
                for refused in answers.into_iter().filter_map(Result::err).filter(|r| r.errno != libc::ENODEV) {
                    tracing::warn!(%refused, "devices could not be deleted; they are down");
                }
            }
            Err(error) => tracing::warn!(%error, "devices could not be deleted; they are down"),
        }
        for pin in pins {
            match std::fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, pin = %pin.display(), "a pin could not be removed; it is tried again at resync");
                }
                _ => {}
            }
        }
        shared.lock().done = asked;
        shared.changed.notify_all();
    }
}
