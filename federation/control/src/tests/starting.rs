//! Starts that must not happen, each with one clear sentence.

use super::*;

async fn refused(config: &ControlConfig) -> String {
    let ways = Directory::default().ways();
    let registry = config.registry();
    let registry = portolan_registry::open(&registry);
    match Control::start(config, registry, ways, Shutdown::new()).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_damaged_registry_file_is_named() {
    let world = World::new();
    let config = world.config("us-east");
    let file = config.data_dir.join("registry.redb");
    std::fs::write(&file, vec![0x5a; 64 * 1024]).unwrap();
    let told = refused(&config).await;
    assert!(
        told.contains("damaged") && told.contains("registry.redb"),
        "{told}"
    );
}

#[tokio::test]
async fn an_unusable_authority_is_said_clearly() {
    let world = World::new();
    let mut config = world.config("us-east");
    config.ca = world.ca_files("us-west");
    let told = refused(&config).await;
    assert!(
        told.contains("us-west.mesh") && told.contains("us-east.mesh"),
        "{told}"
    );

    config.ca = world.ca_files("us-east");
    config.ca.key = world.ca_files("us-west").key;
    let told = refused(&config).await;
    assert!(told.contains("us-west-ca.key"), "{told}");

    config.ca = world.ca_files("us-east");
    config.ca.key = world.folder().join("nowhere");
    let told = refused(&config).await;
    assert!(
        told.contains("cannot read") && told.contains("nowhere"),
        "{told}"
    );

    config.ca = world.ca_files("us-east");
    let other = World::new();
    config.ca.roots = other.ca_files("us-east").roots;
    let told = refused(&config).await;
    assert!(told.contains("would not be trusted"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_socket_in_use_and_a_stale_one_are_told_apart() {
    let (world, directory) = (World::new(), Directory::default());
    let mut config = world.config("us-east");
    let socket = world.folder().join("admin.sock");
    config.admin = Some(socket.clone());
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let east = Cluster::start_with(&config, &directory).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let mut second = world.config("us-west");
    second.admin = Some(socket);
    let told = refused(&second).await;
    assert!(
        told.contains("admin.sock") && told.contains("in use"),
        "{told}"
    );
    east.stop().await;
}

#[tokio::test]
async fn nobody_can_dial_everywhere() {
    let world = World::new();
    let mut config = world.config("us-east");
    config.listen = "0.0.0.0:0".parse().unwrap();
    assert!(refused(&config).await.contains("advertise"));
}
