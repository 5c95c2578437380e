//! `portolan sidecar capture`: nft rules that redirect an app's connections to its sidecar.

use portolan_sidecar::SidecarConfig;
use portolan_sidecar::capture::{ApplyError, CgroupPath, Rules, Where, Who};

use crate::args::CaptureArgs;
use crate::exit::{Code, Failure, chain};
use crate::render;

pub(crate) fn run(args: &CaptureArgs) -> Result<(), Failure> {
    let config: SidecarConfig = portolan_runtime::config::load(&args.config)
        .map_err(|error| Failure::invalid(chain(&error)))?;
    let rules = rules(args, &config)?;
    if args.print {
        return render::print(&rules.ruleset());
    }
    let (done, word) = if args.remove {
        (rules.remove(), "removed")
    } else {
        (rules.apply(), "set")
    };
    done.map_err(|error| failure(&error))?;
    render::print(&format!("capture rules {word} for {}", rules.workload))
}

fn rules(args: &CaptureArgs, config: &SidecarConfig) -> Result<Rules, Failure> {
    let Some(capture) = config.capture else {
        return Err(Failure::invalid(format!(
            "{} sets no `capture` address; add `capture: 127.0.0.1:15006`, and start the sidecar again",
            args.config.display(),
        )));
    };
    let who = match (args.app_uid, &args.app_cgroup, args.sidecar_uid) {
        (Some(uid), ..) => Who::User(uid),
        (None, Some(path), _) => Who::Cgroup(
            CgroupPath::parse(path)
                .map_err(|error| Failure::new(Code::Usage, error.to_string()))?,
        ),
        // Only --remove goes without: the rules' name does not depend on it.
        (None, None, uid) => Who::EverybodyBut(uid.unwrap_or(0)),
    };
    let to = if args.everything {
        Where::EverythingBut(Vec::new())
    } else {
        Where::Only(args.vips.clone())
    };
    let dns = config
        .dns
        .as_ref()
        .and_then(|dns| dns.listen.first().copied());
    Ok(Rules {
        workload: config.workload_key(),
        who,
        to,
        capture,
        dns,
        inbound: None,
    })
}

fn failure(error: &ApplyError) -> Failure {
    let code = match error {
        ApplyError::NoNft | ApplyError::Run(_) => Code::NotFound,
        ApplyError::NotPermitted => Code::Identity,
        ApplyError::Refused(_) => Code::Invalid,
    };
    Failure::new(code, chain(error))
}
