//! Loopback addresses that nobody else uses: each part gets an IP of its own in one 127.N.0.0/16, so
//! that ports need not be searched and outgoing connections never run into them.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// The ports that parts use, one kind of part each.
const PROBED: u16 = 15008;

/// One run's loopback network.
pub(crate) struct Network {
    number: u8,
    next: Cell<u8>,
}

impl Network {
    /// Finds a free one.
    pub(crate) fn choose() -> Result<Self> {
        let first = std::process::id() % 190;
        for step in 0..190 {
            let number = u8::try_from(40 + (first + step) % 190).unwrap_or(40);
            let free = (1..=8).all(|last| {
                let ip = Ipv4Addr::new(127, number, 9, last);
                TcpListener::bind((ip, PROBED)).is_ok()
            });
            if free {
                return Ok(Self {
                    number,
                    next: Cell::new(1),
                });
            }
        }
        bail!("no free loopback network from 127.40.0.0 to 127.229.0.0")
    }

    /// An IP that no other part has.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        let last = self.next.get();
        self.next.set(last + 1);
        Ipv4Addr::new(127, self.number, 9, last)
    }

    /// An address that no other part has.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((self.ip(), PROBED))
    }
}
