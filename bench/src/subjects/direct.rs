//! No proxy at all.

use super::{Ground, Subject};
use crate::load::Entrance;
use crate::load::bulk::BulkEntrance;

pub(crate) const NAME: &str = "direct";

pub(super) fn subject(ground: &Ground<'_>) -> Subject {
    let entrance = Entrance {
        address: ground.origin,
        host: ground.origin.to_string(),
    };
    Subject {
        name: NAME,
        cold: vec![entrance.clone(); ground.cold],
        entrance,
        bulk: Some(BulkEntrance {
            address: ground.origin_bulk(),
            connect: None,
        }),
        proxies: Vec::new(),
    }
}
