//! The generated code, in the module tree that its own paths expect.

pub(crate) mod envoy {
    pub(crate) mod config {
        pub(crate) mod core {
            pub(crate) mod v3 {
                //! The part of `envoy.config.core.v3` that discovery needs.
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub(crate) mod service {
        pub(crate) mod discovery {
            pub(crate) mod v3 {
                //! Incremental xDS: `envoy.service.discovery.v3`.
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

pub(crate) mod google {
    pub(crate) mod rpc {
        //! `google.rpc.Status`, for NACKs.
        tonic::include_proto!("google.rpc");
    }
}

pub(crate) mod portolan {
    pub(crate) mod discovery {
        pub(crate) mod v1 {
            //! The resources that proxies subscribe to.
            tonic::include_proto!("portolan.discovery.v1");
        }
    }
    pub(crate) mod presence {
        pub(crate) mod v1 {
            //! Proxies say that they live.
            tonic::include_proto!("portolan.presence.v1");
        }
    }
    pub(crate) mod authority {
        pub(crate) mod v1 {
            //! The cluster's certificate authority.
            tonic::include_proto!("portolan.authority.v1");
        }
    }
    pub(crate) mod peering {
        pub(crate) mod v1 {
            //! Catalogue exchange between control planes.
            tonic::include_proto!("portolan.peering.v1");
        }
    }
    pub(crate) mod admin {
        pub(crate) mod v1 {
            //! The admin API.
            tonic::include_proto!("portolan.admin.v1");
        }
    }
}
