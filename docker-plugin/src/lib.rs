//! docker-plugin
