//! mpsc
