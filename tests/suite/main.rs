//! The behaviours, each with real parts: the real agent, Docker engine, kernel and traffic. Waiting is for conditions.

mod world;
