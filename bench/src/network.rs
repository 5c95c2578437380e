//! Where parts are: near the caller or far from it. Each part gets an IP of its own, so that ports need
//! not be searched and outgoing connections never run into them. Either both sides are on loopback
//! addresses that nobody else uses, one 127.N.0.0/16, or each is a network namespace.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// The port that every part uses unless it needs several.
const PORT: u16 = 15008;

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the caller is.
    Near,
    /// Where the origin is.
    Far,
}

/// Both sides.
pub(crate) struct Network {
    near: Place,
    far: Place,
}

/// One side's addresses, and its namespace if it has one.
pub(crate) struct Place {
    base: Ipv4Addr,
    next: Cell<u32>,
    namespace: Option<String>,
}

impl Place {
    /// Addresses behind `base`; `namespace` is as `ip netns` calls it.
    pub(crate) fn new(base: Ipv4Addr, namespace: Option<String>) -> Self {
        Self {
            base,
            next: Cell::new(1),
            namespace,
        }
    }

    /// Where its processes run; `None` is where this one does.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl Network {
    /// Two sides that are ready.
    pub(crate) fn new(near: Place, far: Place) -> Self {
        Self { near, far }
    }

    /// Finds loopback addresses that are free.
    pub(crate) fn loopback() -> Result<Self> {
        let first = std::process::id() % 190;
        for step in 0..190 {
            let number = u8::try_from(40 + (first + step) % 190).unwrap_or(40);
            let free = (1..=8).all(|last| {
                let ip = Ipv4Addr::new(127, number, 9, last);
                TcpListener::bind((ip, PORT)).is_ok()
            });
            if free {
                let place = |third| Place::new(Ipv4Addr::new(127, number, third, 0), None);
                return Ok(Self::new(place(9), place(10)));
            }
        }
        bail!("no free loopback network from 127.40.0.0 to 127.229.0.0")
    }

    pub(crate) fn place(&self, side: Side) -> &Place {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// An IP that no other part has.
    pub(crate) fn ip(&self, side: Side) -> Ipv4Addr {
        let place = self.place(side);
        let number = place.next.get();
        place.next.set(number + 1);
        Ipv4Addr::from(u32::from(place.base) + number)
    }

    /// An address that no other part has.
    pub(crate) fn address(&self, side: Side) -> SocketAddr {
        SocketAddr::from((self.ip(side), PORT))
    }
}
