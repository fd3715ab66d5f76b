//! The behaviours, each with real parts.
