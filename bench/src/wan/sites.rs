//! Two places far apart: a namespace for each side, and the emulated link between them.

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use portolan_wan::emulator::{Emulator, Place as Site};
use portolan_wan::namespace::{Namespace, enter};

use crate::network::{Network, Place};

const NEAR: &str = "10.81.0.1/16";
/// Of the namespace that the reading thread is in.
const TCP: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const FAR: &str = "10.82.0.1/16";

pub(super) struct Sites {
    // In this order they end: the link, then the places.
    emulator: Emulator,
    near: Namespace,
    far: Namespace,
}

impl Sites {
    pub(super) fn create() -> Result<Self> {
        let place = |side: &str, own: &str| -> Result<(Namespace, Site)> {
            let own: Ipv4Net = own.parse()?;
            let name = format!("bench-{}-{side}", std::process::id());
            let namespace = Namespace::create(&name, own)?;
            let site = Site {
                name: side.to_owned(),
                namespace: name,
                networks: vec![IpNet::V4(own)],
            };
            Ok((namespace, site))
        };
        let (near, near_site) = place("near", NEAR)?;
        let (far, far_site) = place("far", FAR)?;
        Ok(Self {
            emulator: Emulator::start(vec![near_site, far_site], 1)?,
            near,
            far,
        })
    }

    /// Moves this thread to the near one: the caller is there. Both sides' TCP finds its rate as `tcp` says,
    /// or as it does anyway; that is told.
    pub(super) fn enter(&self, tcp: Option<&str>) -> Result<(Network, String)> {
        for namespace in [&self.far, &self.near] {
            enter(namespace.name())?;
            if let Some(tcp) = tcp {
                std::fs::write(TCP, tcp).with_context(|| {
                    format!(
                        "the kernel lets no namespace find its rate by {tcp}: load its module, and name it in \
                         net.ipv4.tcp_allowed_congestion_control"
                    )
                })?;
            }
        }
        let place = |own: &str, namespace: &Namespace| -> Result<Place> {
            let own: Ipv4Net = own.parse()?;
            Ok(Place::new(own.addr(), Some(namespace.name().to_owned())))
        };
        let network = Network::new(place(NEAR, &self.near)?, place(FAR, &self.far)?);
        Ok((network, std::fs::read_to_string(TCP)?.trim().to_owned()))
    }

    /// Changes the link, in both directions.
    pub(super) fn set(&self, conditions: &[String]) -> Result<()> {
        Ok(self.emulator.controls().change("near<->far", conditions)?)
    }
}
