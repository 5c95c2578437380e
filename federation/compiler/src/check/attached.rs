//! Routes and policies: whether what they are attached to is there.

use portolan_model::declared::{Declared, ResourceKey, ResourceKind};
use portolan_model::{Problem, ServiceKey, Severity};

use super::{World, problem};
use crate::near::nearest;

/// Warns of targets that do not exist (yet): they may be exported by a peer, or come later.
pub(super) fn check(world: &World<'_>, declared: &Declared) -> Vec<Problem> {
    let path = if declared.key.kind.is_route() {
        "spec.parentRefs"
    } else {
        "spec.targetRefs"
    };
    let targets = declared.spec.targets();
    let missing = targets.iter().filter(|service| !known(world, service));
    missing
        .map(|service| {
            let mut names = world
                .all(ResourceKind::Service, Some(&service.namespace))
                .map(|one| one.key.name.as_str());
            let remedy = match nearest(service.name.as_str(), &mut names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "it takes effect when the service is there, or a peer exports it".to_owned()
                }
            };
            let message = format!("this cluster has no Service {service}");
            problem(Severity::Warning, path.to_owned(), message, remedy)
        })
        .collect()
}

fn known(world: &World<'_>, service: &ServiceKey) -> bool {
    let key = ResourceKey::namespaced(
        ResourceKind::Service,
        service.namespace.clone(),
        service.name.as_str(),
    );
    world.get(&key).is_some()
}
