//! Where log lines go and what they look like: standard error, as text or as JSON lines.

use crate::config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The level without and with `--debug`. Libraries that log each request are kept quiet.
fn filter(debug: bool) -> EnvFilter {
    EnvFilter::new(if debug { "debug,hyper=info,h2=info,tower=info,bollard=info,netlink_proto=info" } else { "info" })
}

/// Begins logging. Called once; a second call does nothing.
pub fn begin(config: &Config) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(config.debug)).with_writer(std::io::stderr);
    let begun = match config.log_format {
        LogFormat::Json => builder.json().finish().try_init(),
        LogFormat::Text if config.under_journal => builder.with_ansi(false).without_time().finish().try_init(),
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
    };
    if begun.is_err() {
        tracing::debug!("logging had begun already");
    }
}
