//! Tests in network namespaces of their own, as root: what only the kernel can show.

#[path = "../local/tools.rs"]
mod tools;

mod capture;
mod namespace;
