//! No proxy at all.

use super::{Ground, Subject};
use crate::load::Entrance;
use crate::load::bulk::BulkEntrance;

pub(crate) const NAME: &str = "direct";

pub(super) fn subject(ground: &Ground<'_>) -> Subject {
    Subject {
        name: NAME,
        entrance: Entrance {
            address: ground.origin,
            host: ground.origin.to_string(),
        },
        bulk: Some(BulkEntrance {
            address: ground.origin_bulk,
            connect: None,
        }),
        proxies: Vec::new(),
    }
}
