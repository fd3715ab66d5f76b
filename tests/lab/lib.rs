//! The little world that the suite plays in.
