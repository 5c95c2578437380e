//! A site's way out: a TUN device in the site's namespace, and our end of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::iproute::{IpError, ip};

/// What the device is called inside the site's namespace.
pub const NAME: &str = "wan0";
/// The largest packet between sites, in bytes.
pub const MTU: u16 = 1_500;
/// How many packets the kernel keeps for us while we are busy.
const BACKLOG: u32 = 10_000;

/// Why a site has no way out.
#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("cannot make a TUN device: it needs root and /dev/net/tun")]
    Create(#[source] io::Error),
    #[error(transparent)]
    Ip(#[from] IpError),
}

/// Our end of a site's way out.
pub(crate) struct Device(SyncDevice);

impl Device {
    /// Makes the device, moves it into the namespace, and sends all that is for no other device there to it.
    pub(crate) fn create(namespace: &str) -> Result<Self, DeviceError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Made in this process's namespace first, where the final name may be taken.
        let name = format!("wan{}-{number}", std::process::id());
        let device = DeviceBuilder::new()
            .name(&name)
            .mtu(MTU)
            .enable(false)
            .build_sync()
            .map_err(DeviceError::Create)?;
        device.set_nonblocking(true).map_err(DeviceError::Create)?;
        let backlog = BACKLOG.to_string();
        ip(&["link", "set", &name, "netns", namespace, "name", NAME])?;
        ip(&[
            "-n",
            namespace,
            "link",
            "set",
            NAME,
            "txqueuelen",
            &backlog,
            "up",
        ])?;
        ip(&["-n", namespace, "route", "add", "default", "dev", NAME])?;
        Ok(Self(device))
    }

    /// A packet that the site sends; `None` when there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the site a packet.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(drop)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
