//! `portolan demo`: three linked clusters on this machine, every part a real process of its own.
//!
//! The demo writes what an operator would write (keys, configuration files, declarations), starts the
//! parts, waits until every cluster answers through every link, and says what to try. It restarts
//! nothing: what is killed stays dead until somebody starts it again.

mod declarations;
mod files;
mod layout;
mod parts;
mod ready;
mod report;

use std::time::Duration;

use crate::args::DemoArgs;
use crate::commands::admin::block_on;
use crate::exit::Failure;
use crate::render;

use files::Folder;
use layout::Layout;
use parts::Parts;

pub(crate) fn run(args: DemoArgs) -> Result<(), Failure> {
    block_on(async move {
        let folder = Folder::create(args.dir)?;
        let layout = Layout::choose()?;
        files::write(&folder, &layout)?;
        let mut parts = Parts::new(&folder)?;
        let outcome = play(&args.seconds, args.json, &folder, &layout, &mut parts).await;
        parts.stop().await;
        outcome
    })
}

async fn play(
    seconds: &Option<u64>,
    json: bool,
    folder: &Folder,
    layout: &Layout,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let stop = crate::daemon::stop_signal();
    tokio::pin!(stop);
    let started = tokio::select! {
        started = start(json, folder, layout, parts) => started,
        () = &mut stop => return Ok(()),
    };
    if let Err(failure) = started {
        return Err(parts.why(failure));
    }
    if json {
        render::print(&report::json(layout, parts)?)?;
    } else {
        render::print(&report::guide(layout, parts, folder.path()))?;
    }
    let end = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = &mut stop => {}
        () = end => {}
        () = parts.reap(json) => {}
    }
    Ok(())
}

/// Starts everything and waits until it works.
async fn start(
    json: bool,
    folder: &Folder,
    layout: &Layout,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let say = |text: &str| {
        if !json {
            render::complain(text);
        }
    };
    say("starting three clusters: us-east, us-west, eu-west ...");
    for cluster in &layout.clusters {
        parts.start_control(cluster)?;
    }
    for cluster in &layout.clusters {
        ready::control_answers(&folder.admin_socket(cluster), parts).await?;
        declarations::apply(&folder.admin_socket(cluster), layout, cluster).await?;
    }
    for cluster in &layout.clusters {
        parts.start_gateway(cluster)?;
        for workload in &cluster.workloads {
            parts.start_workload(cluster, workload)?;
        }
    }
    say("waiting until every cluster knows the others' services ...");
    ready::everything(layout, folder, parts).await
}
