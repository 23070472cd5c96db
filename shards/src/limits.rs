//! Every bound of the storage layer.
