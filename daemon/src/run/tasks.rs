//! Named tasks that end together.

use crate::controllers::causes;
use std::any::Any;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks may take to end once told to.
const PATIENCE: Duration = Duration::from_secs(3);

type Outcome = (&'static str, Option<String>);

/// Tasks with one token to end them. What they end with is an error text, or none.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<Outcome>,
    token: CancellationToken,
    kept: Vec<Box<dyn Any + Send>>,
}

impl Tasks {
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task that may fail.
    pub fn spawn<E, F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        E: std::error::Error,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let future = task(self.token());
        self.set.spawn(async move { (name, future.await.err().map(|error| causes(&error))) });
    }

    /// Starts a task that ends for no other reason than being told to.
    pub fn spawn_infallible<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = task(self.token());
        self.set.spawn(async move {
            future.await;
            (name, None)
        });
    }

    /// Keeps something alive as long as the tasks.
    pub fn keep(&mut self, thing: impl Any + Send) {
        self.kept.push(Box::new(thing));
    }

    /// Waits until a task has ended, and says which and why. Never returns while there is none.
    pub async fn any_ended(&mut self) -> String {
        match self.set.join_next().await {
            None => std::future::pending().await,
            Some(Ok((name, None))) => format!("the task {name:?} (without an error)"),
            Some(Ok((name, Some(error)))) => format!("the task {name:?} ({error})"),
            Some(Err(error)) => format!("a task ({error})"),
        }
    }

    /// Tells all tasks to end and waits for them; those that do not are aborted and named.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.token.cancel();
        let mut errors = Vec::new();
        let drained = tokio::time::timeout(PATIENCE, async {
            while let Some(ended) = self.set.join_next().await {
                match ended {
                    Ok((name, Some(error))) => errors.push(format!("{name}: {error}")),
                    Ok((_, None)) => {}
                    Err(error) => errors.push(error.to_string()),
                }
            }
        });
        if drained.await.is_err() {
            tracing::warn!(tasks = self.set.len(), "tasks did not end in time and are given up");
            self.set.abort_all();
        }
        self.kept.clear();
        if errors.is_empty() { Ok(()) } else { anyhow::bail!("{}", errors.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_task_is_named_with_its_reason() {
        let mut tasks = Tasks::default();
        tasks.spawn_infallible("patient", |shutdown| async move { shutdown.cancelled().await });
        tasks.spawn("broken", |_| async { Err(std::io::Error::other("out of luck")) });
        assert_eq!(tasks.any_ended().await, "the task \"broken\" (out of luck)");
        assert!(tasks.end().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stubborn_task_does_not_hold_up_the_end() {
        let mut tasks = Tasks::default();
        tasks.spawn_infallible("stubborn", |_| std::future::pending());
        assert!(tasks.end().await.is_ok());
    }
}
