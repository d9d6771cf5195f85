//! The wire contract of containerd's snapshots service, version 1, and its conversion from and to the domain; and
//! of those of containerd's own services that Pontoon calls.
//!
//! - [`snapshots`]: messages, server and client, generated from `protos/` and checked in below `src/generated`
//!   (`cargo xtask gen-proto` writes them again, a test compares).
//! - [`content`], [`images`], [`leases`]: likewise, as far as they are called.
//! - [`types`]: the API's `Mount` and `Descriptor`.
//! - [`client`]: a blocking client, itself a `Snapshotter`.
//! - [`convert`]: domain values from and to messages, error classes from and to gRPC codes.
//!
//! Nothing here decides anything: a message that cannot be a domain value is refused with the domain's error.

pub mod client;
pub mod convert;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
#[rustfmt::skip]
mod generated {
    pub mod containerd {
        pub mod types {
            include!("generated/containerd.types.rs");
        }
        pub mod services {
            pub mod content {
                pub mod v1 {
                    include!("generated/containerd.services.content.v1.rs");
                }
            }
            pub mod images {
                pub mod v1 {
                    include!("generated/containerd.services.images.v1.rs");
                }
            }
            pub mod leases {
                pub mod v1 {
                    include!("generated/containerd.services.leases.v1.rs");
                }
            }
            pub mod snapshots {
                pub mod v1 {
                    include!("generated/containerd.services.snapshots.v1.rs");
                }
            }
        }
    }
}

pub use generated::containerd::services::content::v1 as content;
pub use generated::containerd::services::images::v1 as images;
pub use generated::containerd::services::leases::v1 as leases;
pub use generated::containerd::services::snapshots::v1 as snapshots;
pub use generated::containerd::types;
