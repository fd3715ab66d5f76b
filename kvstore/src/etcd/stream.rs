//! Following changes at one server. A stream that falls silent is asked for a sign of life, so that it ends rather than
//! hangs; resuming it elsewhere is `watch`'s work.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use tokio::time::timeout;

use super::reply::{Kind, Reply};
use super::servers::Repeat;
use super::{Etcd, MAX_ANSWER, bounds, entry};
use crate::{Error, Event, Events, Operation, Revision};

/// Silence after which the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

pub(super) async fn watch(etcd: &Etcd, prefix: &str, from: Revision) -> Result<Events, Error> {
    let compacted = || Error::Compacted { prefix: prefix.to_owned(), from };
    let from = from.max(1);
    let (now, other_cluster) = etcd.position(Operation::Watch, prefix).await?;
    // etcd would wait for a revision of the future without a word. It means that the store went back in time.
    if other_cluster || from > now + 1 {
        return Err(compacted());
    }
    let (key, end) = bounds(prefix);
    let options = WatchOptions::new().with_range(end).with_start_revision(from.cast_signed());
    let open = |client: Client| {
        let (key, options) = (key.clone(), options.clone());
        async move {
            let mut watcher = client.watch_client().max_decoding_message_size(MAX_ANSWER);
            let mut stream = watcher.watch(key, Some(options)).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        }
    };
    let (stream, first) = etcd.servers.call(Operation::Watch, prefix, Repeat::Freely, open).await?;
    let answer = etcd.servers.timeout();
    let mut follower = Follower { stream, prefix: prefix.to_owned(), from, answer, asked: false };
    let early = follower.take(first)?;
    let start = (!early.is_empty()).then_some(Ok(early));
    let rest = futures::stream::unfold(Some(follower), follow);
    Ok(futures::stream::iter(start).chain(rest).boxed())
}

struct Follower {
    stream: WatchStream,
    prefix: String,
    // For messages alone.
    from: Revision,
    answer: Duration,
    asked: bool,
}

impl Follower {
    fn broken(&self, kind: Kind, text: &str) -> Error {
        Reply::new("etcd", text).error(kind, Operation::Watch, &self.prefix)
    }

    /// The events of one message, which may be none.
    fn take(&mut self, message: Option<WatchResponse>) -> Result<Vec<Event>, Error> {
        self.asked = false;
        let Some(message) = message else { return Err(self.broken(Kind::Broken, "the server ended the stream")) };
        if message.compact_revision() > 0 {
            return Err(Error::Compacted { prefix: self.prefix.clone(), from: self.from });
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            let kind = if reason.contains("permission denied") { Kind::Denied } else { Kind::Broken };
            return Err(self.broken(kind, reason));
        }
        let events: Vec<Event> = message.events().iter().filter_map(event).collect();
        if let Some(last) = events.last() {
            self.from = last.revision() + 1;
        }
        Ok(events)
    }

    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        let wait = if self.asked { self.answer } else { SILENCE };
        match timeout(wait, self.stream.message()).await {
            Ok(Ok(message)) => self.take(message),
            Ok(Err(error)) => {
                let reply = Reply::from_error("etcd", &error);
                Err(reply.error(super::reply::kind(&error), Operation::Watch, &self.prefix))
            }
            Err(_) if self.asked => Err(self.broken(Kind::Broken, "the server fell silent")),
            Err(_) => {
                self.asked = true;
                let asking = timeout(self.answer, self.stream.request_progress()).await;
                match asking {
                    Ok(Ok(())) => Ok(Vec::new()),
                    _ => Err(self.broken(Kind::Broken, "the stream takes no requests")),
                }
            }
        }
    }
}

async fn follow(follower: Option<Follower>) -> Option<(Result<Vec<Event>, Error>, Option<Follower>)> {
    let mut follower = follower?;
    loop {
        match follower.next().await {
            Ok(events) if events.is_empty() => {}
            Ok(events) => return Some((Ok(events), Some(follower))),
            Err(error) => return Some((Err(error), None)),
        }
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    match event.event_type() {
        EventType::Put => entry(kv.clone()).map(Event::Put),
        EventType::Delete => {
            let key = String::from_utf8(kv.key().to_vec()).ok()?;
            Some(Event::Delete { key, revision: kv.mod_revision().unsigned_abs() })
        }
    }
}
