//! The generated code, in the module tree that its own paths expect.

pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                //! The part of `envoy.config.core.v3` that discovery needs.
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                //! Incremental xDS: `envoy.service.discovery.v3`.
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

pub mod google {
    pub mod rpc {
        //! `google.rpc.Status`, for NACKs.
        tonic::include_proto!("google.rpc");
    }
}

pub mod portolan {
    pub mod discovery {
        pub mod v1 {
            //! The resources that proxies subscribe to.
            tonic::include_proto!("portolan.discovery.v1");
        }
    }
    pub mod presence {
        pub mod v1 {
            //! Proxies say that they live.
            tonic::include_proto!("portolan.presence.v1");
        }
    }
    pub mod authority {
        pub mod v1 {
            //! The cluster's certificate authority.
            tonic::include_proto!("portolan.authority.v1");
        }
    }
    pub mod peering {
        pub mod v1 {
            //! Catalogue exchange between control planes.
            tonic::include_proto!("portolan.peering.v1");
        }
    }
    pub mod quota {
        pub mod v1 {
            //! Limits that instances keep together.
            tonic::include_proto!("portolan.quota.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            //! The admin API.
            tonic::include_proto!("portolan.admin.v1");
        }
    }
}
