//! Bugs are planted, and found.
