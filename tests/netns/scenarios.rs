//! What can break, when, and what may come of it.

use std::time::Duration;

use super::mesh::By;
use super::scenario::{Act, Bounds, Scenario};

pub(crate) const PER_SECOND: u32 = 100;

const ORDERS: &str = "http://orders.shop.svc.clusterset.local/";
const PAYMENTS: &str = "http://payments.shop.svc.clusterset.local/";
const RTT_60: &str = "delay=30ms";
/// orders of us-east is away, so that the calls cross the wide-area network to us-west.
const FAR: &[Act] = &[Act::Kill("us-east/orders-*")];

const NONE_FAILED: Bounds = Bounds {
    failed_max: 0,
    longest_max: Duration::from_secs(5),
    ends: "us-east",
};

/// Calls to orders that us-east answers, at 60 ms between clusters.
const NEAR: Scenario = Scenario {
    name: "",
    gateways: 1,
    between: RTT_60,
    by: By::Capture,
    method: "GET",
    url: ORDERS,
    before: &[],
    begins: "us-east",
    script: &[],
    seconds: 10.0,
    bounds: NONE_FAILED,
};

/// The same, answered by us-west.
const CROSSING: Scenario = Scenario {
    before: FAR,
    begins: "us-west",
    bounds: Bounds {
        ends: "us-west",
        ..NONE_FAILED
    },
    ..NEAR
};

const TO_EU_WEST: Bounds = Bounds {
    ends: "eu-west",
    ..NONE_FAILED
};

/// Calls to payments, which nobody but eu-west can answer, under loss.
const fn lossy(name: &'static str, between: &'static str) -> Scenario {
    Scenario {
        name,
        between,
        url: PAYMENTS,
        begins: "eu-west",
        bounds: TO_EU_WEST,
        ..NEAR
    }
}

/// Every gateway ends and comes back, one after the other.
const fn rolling_restart(name: &'static str, method: &'static str) -> Scenario {
    Scenario {
        name,
        method,
        gateways: 2,
        script: &[
            (2.0, Act::End("us-east/gateway-1")),
            (2.1, Act::Start("us-east/gateway-1")),
            (5.0, Act::End("us-west/gateway-1")),
            (5.1, Act::Start("us-west/gateway-1")),
            (8.0, Act::End("us-east/gateway-2")),
            (8.1, Act::Start("us-east/gateway-2")),
            (11.0, Act::End("us-west/gateway-2")),
            (11.1, Act::Start("us-west/gateway-2")),
        ],
        seconds: 26.0,
        ..CROSSING
    }
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "app killed, started again",
        script: &[
            (3.0, Act::Kill("us-east/orders-app")),
            (7.0, Act::Start("us-east/orders-app")),
        ],
        seconds: 20.0,
        ..NEAR
    },
    Scenario {
        name: "app stopped (SIGSTOP), resumed",
        script: &[
            (3.0, Act::Stop("us-east/orders-app")),
            (9.0, Act::Resume("us-east/orders-app")),
        ],
        seconds: 26.0,
        ..NEAR
    },
    Scenario {
        name: "sidecar killed, started again",
        script: &[
            (3.0, Act::Kill("us-east/orders-sidecar")),
            (7.0, Act::Start("us-east/orders-sidecar")),
        ],
        seconds: 20.0,
        ..NEAR
    },
    Scenario {
        name: "sidecar stopped (SIGSTOP), resumed",
        script: &[
            (3.0, Act::Stop("us-east/orders-sidecar")),
            (27.0, Act::Resume("us-east/orders-sidecar")),
        ],
        seconds: 42.0,
        ..NEAR
    },
    Scenario {
        name: "sidecar asked to end (SIGTERM), started again, POST",
        method: "POST",
        script: &[
            (3.0, Act::End("us-east/orders-sidecar")),
            (7.0, Act::Start("us-east/orders-sidecar")),
        ],
        seconds: 20.0,
        ..NEAR
    },
    Scenario {
        name: "app and sidecar killed, started again",
        script: &[
            (3.0, Act::Kill("us-east/orders-*")),
            (7.0, Act::Start("us-east/orders-*")),
        ],
        seconds: 20.0,
        ..NEAR
    },
    Scenario {
        name: "own cluster cut off the network",
        script: &[
            (3.0, Act::Wan("us-east cut=yes")),
            (7.0, Act::Wan("us-east cut=no")),
        ],
        ..NEAR
    },
    Scenario {
        name: "one of two own gateways killed, started again",
        gateways: 2,
        script: &[
            (3.0, Act::Kill("us-east/gateway-1")),
            (7.0, Act::Start("us-east/gateway-1")),
        ],
        ..CROSSING
    },
    Scenario {
        name: "one of two own gateways stopped (SIGSTOP), resumed",
        gateways: 2,
        script: &[
            (3.0, Act::Stop("us-east/gateway-1")),
            (9.0, Act::Resume("us-east/gateway-1")),
        ],
        seconds: 13.0,
        ..CROSSING
    },
    Scenario {
        name: "one of the peer's two gateways killed, started again",
        gateways: 2,
        script: &[
            (3.0, Act::Kill("us-west/gateway-1")),
            (7.0, Act::Start("us-west/gateway-1")),
        ],
        ..CROSSING
    },
    Scenario {
        name: "one of the peer's two gateways stopped (SIGSTOP), resumed",
        gateways: 2,
        script: &[
            (3.0, Act::Stop("us-west/gateway-1")),
            (9.0, Act::Resume("us-west/gateway-1")),
        ],
        seconds: 13.0,
        ..CROSSING
    },
    Scenario {
        name: "the peer's only gateway killed",
        script: &[(3.0, Act::Kill("us-west/gateway-1"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "the peer's only gateway killed, called through the proxy",
        by: By::Proxy,
        script: &[(3.0, Act::Kill("us-west/gateway-1"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "the peer's only gateway stopped (SIGSTOP)",
        script: &[(3.0, Act::Stop("us-west/gateway-1"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "peer's app and sidecar stopped (SIGSTOP)",
        script: &[(3.0, Act::Stop("us-west/orders-*"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "peer's app stopped (SIGSTOP)",
        script: &[(3.0, Act::Stop("us-west/orders-app"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    rolling_restart("rolling restart of all gateways, two per cluster", "GET"),
    rolling_restart(
        "rolling restart of all gateways, two per cluster, POST",
        "POST",
    ),
    Scenario {
        name: "whole cluster silent (cut off, nobody told)",
        script: &[(3.0, Act::Wan("us-west cut=yes"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "whole cluster stopped (SIGSTOP)",
        script: &[(3.0, Act::Stop("us-west/*"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "whole cluster killed, started again",
        script: &[
            (3.0, Act::Kill("us-west/*")),
            (6.0, Act::Start("us-west/*")),
        ],
        seconds: 26.0,
        ..CROSSING
    },
    Scenario {
        name: "link black-holed, restored",
        script: &[
            (3.0, Act::Wan("us-east<->us-west cut=yes")),
            (7.0, Act::Wan("us-east<->us-west cut=no")),
        ],
        seconds: 24.0,
        ..CROSSING
    },
    Scenario {
        name: "link black-holed in one direction",
        script: &[(3.0, Act::Wan("us-east->us-west cut=yes"))],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "all control planes killed",
        script: &[
            (2.0, Act::Kill("*/control")),
            (12.0, Act::Start("*/control")),
        ],
        seconds: 16.0,
        ..CROSSING
    },
    Scenario {
        name: "all control planes away for two minutes, and an app killed meanwhile",
        script: &[
            (2.0, Act::Kill("*/control")),
            (60.0, Act::Kill("us-west/orders-*")),
            (122.0, Act::Start("*/control")),
        ],
        seconds: 130.0,
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "own control plane stopped (SIGSTOP), an app killed meanwhile",
        script: &[
            (2.0, Act::Stop("us-east/control")),
            (4.0, Act::Kill("us-east/orders-*")),
        ],
        bounds: Bounds {
            ends: "us-west",
            ..NONE_FAILED
        },
        ..NEAR
    },
    Scenario {
        name: "registry file damaged, control plane started again",
        script: &[
            (2.0, Act::Kill("us-east/control")),
            (2.1, Act::Damage("us-east")),
            (3.0, Act::Start("us-east/control")),
        ],
        ..CROSSING
    },
    Scenario {
        name: "disk full everywhere, an app killed and started meanwhile",
        script: &[
            (2.0, Act::Fill),
            (3.0, Act::Kill("us-west/orders-app")),
            (6.0, Act::Start("us-west/orders-app")),
            (9.0, Act::Free),
        ],
        seconds: 24.0,
        ..CROSSING
    },
    Scenario {
        name: "one of two own gateways answers garbage",
        gateways: 2,
        script: &[
            (3.0, Act::Kill("us-east/gateway-1")),
            (3.1, Act::Garbage("us-east/gateway-1", 15_443, 15_444)),
        ],
        ..CROSSING
    },
    Scenario {
        name: "peer's gateway answers garbage",
        script: &[
            (3.0, Act::Kill("us-west/gateway-1")),
            (3.1, Act::Garbage("us-west/gateway-1", 15_443, 15_444)),
        ],
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "peer's gateway taken over, talks nonsense, POST",
        method: "POST",
        script: &[
            (3.0, Act::End("us-west/gateway-1")),
            (3.1, Act::Impersonate("us-west/gateway-1")),
        ],
        seconds: 20.0,
        bounds: TO_EU_WEST,
        ..CROSSING
    },
    Scenario {
        name: "app answers garbage",
        script: &[
            (3.0, Act::Kill("us-east/orders-app")),
            (3.1, Act::Garbage("us-east/orders", 8_080, 8_080)),
        ],
        bounds: Bounds {
            ends: "us-west",
            ..NONE_FAILED
        },
        ..NEAR
    },
    lossy("no loss, 60 ms", "delay=30ms"),
    lossy("1 % loss, 60 ms", "delay=30ms loss=1%"),
    lossy("2 % loss, 60 ms", "delay=30ms loss=2%"),
    lossy("5 % loss, 60 ms", "delay=30ms loss=5%"),
    lossy("2 % loss in bursts of 5, 60 ms", "delay=30ms loss=2%/5"),
    lossy("no loss, 150 ms", "delay=75ms"),
    lossy("1 % loss, 150 ms", "delay=75ms loss=1%"),
    lossy("2 % loss, 150 ms", "delay=75ms loss=2%"),
    lossy("5 % loss, 150 ms", "delay=75ms loss=5%"),
];
