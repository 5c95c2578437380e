//! Whole control planes in one process.
