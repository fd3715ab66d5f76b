//! The datapath on the real kernel, with real packets. Each test has a node of its own in namespaces of its own.

#![allow(clippy::unwrap_used)] // What a helper cannot do fails the test that asked for it.

mod addresses;
mod amend;
mod lab;
mod life;
mod native;
mod nodeport;
mod outside;
mod own;
mod paths;
mod policy;
mod restart;
mod services;
mod traffic;
mod tunnel;
