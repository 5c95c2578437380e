//! The thread that moves packets between sites when their time has come.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;
use thiserror::Error;

use crate::device::{Device, DeviceError};
use crate::network::{ChangeError, Network, Report, Site};

/// How long the thread sleeps at most, so that it notices its end.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// How many packets are read from one site before the others have their turn.
const BATCH: usize = 64;
/// The largest IP packet, in bytes.
const PACKET_MAX: usize = 65_535;
/// Packets in time matter more than anything else on this machine.
const PRIORITY: i32 = -15;

/// A site, and the namespace that it is.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    /// As `ip netns` calls it. A TUN device `wan0` with a default route appears in it.
    pub namespace: String,
    /// Packets to these come here.
    pub networks: Vec<IpNet>,
}

/// Why the emulator does not run.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("the site {site} has no way out")]
    Device {
        site: String,
        #[source]
        source: DeviceError,
    },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A running emulator; ends when dropped, and its devices with it.
#[derive(Debug)]
pub struct Emulator {
    network: Arc<Mutex<Network>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What another thread may do with a running emulator.
#[derive(Debug, Clone)]
pub struct Controls(Arc<Mutex<Network>>);

impl Emulator {
    /// Joins the places; every direction begins without any fault. Needs root.
    pub fn start(places: Vec<Place>, seed: u64) -> Result<Self, StartError> {
        let mut devices = Vec::new();
        for place in &places {
            let device = Device::create(&place.namespace).map_err(|source| StartError::Device {
                site: place.name.clone(),
                source,
            })?;
            devices.push(device);
        }
        let sites = places
            .into_iter()
            .map(|place| Site {
                name: place.name,
                networks: place.networks,
            })
            .collect();
        let network = Arc::new(Mutex::new(Network::new(sites, seed)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (network, stop) = (Arc::clone(&network), Arc::clone(&stop));
            std::thread::Builder::new()
                .name("wan".to_owned())
                .spawn(move || run(&devices, &network, &stop))
                .map_err(StartError::Thread)?
        };
        Ok(Self {
            network,
            stop,
            thread: Some(thread),
        })
    }

    pub fn controls(&self) -> Controls {
        Controls(Arc::clone(&self.network))
    }
}

impl Controls {
    /// See [`Network::change`].
    pub fn change<W: AsRef<str>>(&self, links: &str, words: &[W]) -> Result<(), ChangeError> {
        lock(&self.0).change(links, words)
    }

    pub fn report(&self) -> Vec<Report> {
        lock(&self.0).report()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(devices: &[Device], network: &Mutex<Network>, stop: &AtomicBool) {
    // Without the right to it, times are as good as the machine is idle.
    let _as_it_is = setpriority_process(None, PRIORITY);
    let begin = Instant::now();
    let mut buffer = vec![0; PACKET_MAX];
    while !stop.load(Ordering::Relaxed) {
        let sleep = deliver(devices, &mut lock(network), begin);
        wait(devices, sleep);
        collect(devices, &mut lock(network), begin, &mut buffer);
    }
}

/// Gives out what has arrived; how long nothing more will.
fn deliver(devices: &[Device], network: &mut Network, begin: Instant) -> Duration {
    loop {
        let now = begin.elapsed();
        let Some((site, packet)) = network.arrived(now) else {
            let next = network
                .next_arrival()
                .map(|arrival| arrival.saturating_sub(now));
            return next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        };
        // A site that is being taken down loses its packets, like a real one.
        let _lost = devices[site].write(&packet);
    }
}

/// Waits for packets, at most `sleep`.
fn wait(devices: &[Device], sleep: Duration) {
    let mut ready: Vec<_> = devices
        .iter()
        .map(|device| PollFd::new(device, PollFlags::IN))
        .collect();
    let sleep = Timespec {
        tv_sec: 0,
        tv_nsec: sleep.subsec_nanos().into(),
    };
    // An interrupted wait is a short one.
    let _interrupted = poll(&mut ready, Some(&sleep));
}

/// Takes what the sites have sent.
fn collect(devices: &[Device], network: &mut Network, begin: Instant, buffer: &mut [u8]) {
    for (site, device) in devices.iter().enumerate() {
        for _ in 0..BATCH {
            let Ok(Some(length)) = device.read(buffer) else {
                break;
            };
            network.send(site, &buffer[..length], begin.elapsed());
        }
    }
}
