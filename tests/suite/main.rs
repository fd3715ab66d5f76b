//! The behaviours, each with real parts: the real agent, Docker engine, kernel and traffic. Waiting is for conditions.

mod bad_input;
mod compatibility;
mod coordination;
mod deployments;
mod docker;
mod events;
mod failures;
mod lab;
mod leaks;
mod mesh;
mod modes;
mod policy;
mod published;
mod restart;
mod services;
mod sockets;
mod world_traffic;

/// Makes of `fn scene(engine: &Engine) -> Result<()>` one test for each engine: the installed one, and a newer one out
/// of Debian's next suite, unpacked beside it.
macro_rules! on_each_engine {
    ($($scene:ident),* $(,)?) => { $(
        mod $scene {
            #[test]
            #[ignore = "needs root: make test"]
            fn on_the_installed_engine() -> anyhow::Result<()> {
                super::$scene(&::lab::Engine::installed())
            }

            #[test]
            #[ignore = "needs root: make test"]
            fn on_a_newer_engine() -> anyhow::Result<()> {
                super::$scene(&::lab::Engine::newer()?)
            }
        }
    )* };
}
pub(crate) use on_each_engine;
