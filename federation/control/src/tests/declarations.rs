//! Declarations by the admin API and from files.

use portolan_api::admin::{Action, CreateTokenRequest, StatusRequest};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_configures_and_leaves_alone() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let actions = |response: &ApplyResponse| -> Vec<Action> {
        response
            .changes
            .iter()
            .map(|change| change.action())
            .collect()
    };
    let dry = east.apply_as(&orders(), true).await;
    assert_eq!(actions(&dry), [Action::Created, Action::Created]);
    assert!(east.get("svc").await.is_empty());

    let applied = east.apply(&orders()).await;
    assert_eq!(actions(&applied), [Action::Created, Action::Created]);
    let stored = east.get("svc").await.remove(0);
    assert_eq!(stored["metadata"]["generation"], 1);
    assert!(stored["metadata"]["resourceVersion"].is_string());
    let again = east.apply(&orders()).await;
    assert_eq!(actions(&again), [Action::Unchanged, Action::Unchanged]);

    let changed = orders().replace("targetPort: 8080", "targetPort: http");
    let changed = east.apply(&changed).await;
    assert_eq!(actions(&changed), [Action::Configured, Action::Unchanged]);
    assert!(changed.changes[0].before_json.contains("8080"));
    let after = east.get("services").await.remove(0);
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(
        after["metadata"]["creationTimestamp"],
        stored["metadata"]["creationTimestamp"]
    );
    let status = east
        .admin
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.services, status.workloads, status.workloads_ready),
        (1, 1, 1)
    );
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_one_mistake_stores_nothing_and_names_every_mistake() {
    let (world, directory) = (World::new(), Directory::default());
    let mut east = Cluster::start(&world, &directory, "us-east").await;
    let bad = orders()
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {ports: [{port: 99999}], selectr: {}}\n";
    let response = east.apply(&bad).await;
    assert!(response.changes.is_empty());
    let errors: Vec<_> = response.problems.iter().filter(|p| !p.warning).collect();
    assert!(errors.len() >= 2, "{errors:?}");
    assert!(
        errors.iter().all(|p| p.file == "test.yaml" && p.line > 11),
        "{errors:?}"
    );
    assert!(east.get("services").await.is_empty());
    assert!(east.get("workloads").await.is_empty());

    let unknown = east.admin.get(GetRequest {
        kind: "pod".to_owned(),
        ..GetRequest::default()
    });
    let unknown = unknown.await.unwrap_err();
    assert!(unknown.message().contains("workloads"), "{unknown}");
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_for_own_proxies_only() {
    let (world, directory) = (World::new(), Directory::default());
    let east = Cluster::start(&world, &directory, "us-east").await;
    let ask = |id: &str| {
        let request = CreateTokenRequest {
            spiffe_id: id.to_owned(),
            ttl_s: 0,
        };
        let mut admin = east.admin.clone();
        async move { admin.create_token(request).await }
    };
    assert!(ask("spiffe://us-east.mesh/ns/shop/sa/orders").await.is_ok());
    assert!(
        ask("spiffe://us-west.mesh/ns/shop/sa/orders")
            .await
            .is_err()
    );
    assert!(
        ask("spiffe://us-east.mesh/portolan/control/us-east")
            .await
            .is_err()
    );
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_and_their_mistakes_change_nothing() {
    let (world, directory) = (World::new(), Directory::default());
    let folder = world.folder().join("declarations");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("orders.yaml");
    std::fs::write(&file, orders()).unwrap();
    let mut config = world.config("us-east");
    config.sources = vec![folder.clone()];
    let mut east = Cluster::start_with(&config, &directory).await;
    let there = |view: &Arc<View>| service(view, "shop/orders").is_some();
    east.until("orders is there", there).await;
    east.declare(&orders().replace("orders", "by-hand")).await;

    std::fs::write(folder.join("export.yaml"), export()).unwrap();
    east.until("orders is exported", |view| {
        service(view, "shop/orders").is_some_and(|orders| orders.imported)
    })
    .await;
    std::fs::write(&file, orders().replace("port: 80,", "port: eighty,")).unwrap();
    // The next good change of another file shows that the bad one was seen.
    std::fs::write(folder.join("peer.yaml"), peer("us-west")).unwrap();
    let view = east
        .until("the peer is there", |view| !view.catalogues.is_empty())
        .await;
    assert!(there(&view));
    std::fs::remove_file(&file).unwrap();
    let view = east
        .until("orders is gone", |view| {
            view.documents.keys().all(|key| key.name != "orders-0")
        })
        .await;
    assert!(service(&view, "shop/by-hand").is_some());
    east.stop().await;
}
