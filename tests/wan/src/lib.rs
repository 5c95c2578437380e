//! A wide-area network in a box.
//!
//! Each site is a network namespace with a TUN device. What a site sends to another site's networks comes
//! out there after the delay of that direction, unless it is lost, finds a full queue, or the link is cut.
//! The kernel's own emulator, netem, is not in every kernel; this one needs `/dev/net/tun` and root.
//!
//! [`conditions`], [`loss`], [`link`] and [`network`] decide, with time and a seed as arguments;
//! [`emulator`] moves packets by them, and [`control`] changes them while it runs.

pub mod conditions;
pub mod control;
pub mod device;
pub mod emulator;
pub mod iproute;
pub mod link;
pub mod loss;
pub mod namespace;
pub mod network;
pub mod outcome;
