//! A store in an etcd cluster.
