//! What is written between proxies. Pure: bytes in, values out.

pub mod alert;
pub mod client_hello;
pub mod header;
pub mod sni;
pub mod trace;
