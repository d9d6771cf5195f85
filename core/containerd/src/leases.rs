//! Leases: what is being put together is not collected meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pontoon_layer::Digest;
use pontoon_proto::leases::{self as v1, leases_client::LeasesClient};
use prost_types::Timestamp;

use crate::client::{Client, Scoped};
use crate::error::{Error, Result};

/// The label after whose time a lease keeps nothing (containerd, `docs/garbage-collection.md`).
const EXPIRE: &str = "containerd.io/gc.expire";

/// The last second of the year 9999, in seconds since 1970: RFC 3339, which labels have, ends there.
const LAST_SECOND: u64 = 253_402_300_799;

/// containerd's leases service.
#[derive(Debug, Clone)]
pub struct Leases {
    client: Client,
}

/// Keeps what was written under it, or added to it, from garbage collection, until it is [deleted](Lease::delete) or
/// expires. Dropped, it expires.
#[derive(Debug)]
pub struct Lease {
    id: String,
    client: Client,
    leases: Leases,
}

impl Leases {
    pub(crate) fn new(client: Client) -> Self {
        Leases { client }
    }

    /// Makes a lease that expires after `lifetime`, so that nothing stays behind if we die. `purpose` becomes part of
    /// its id.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is beyond the year 9999.
    pub async fn create(&self, purpose: &str, lifetime: Duration) -> Result<Lease> {
        let id = unique_id(purpose);
        let client = self.client.with_lease(&id)?;
        let expires = expiry(SystemTime::now(), lifetime).ok_or_else(|| Error::Invalid {
            what: format!("a lease for {lifetime:?}"),
            reason: "it would expire after the year 9999; take a shorter time".to_owned(),
        })?;
        let request = v1::CreateRequest {
            id: id.clone(),
            labels: BTreeMap::from([(EXPIRE.to_owned(), expires.to_string())]),
        };
        let object = format!("lease {id}");
        let mut service = self.service();
        self.client
            .call("making", &object, service.create(request))
            .await?;
        Ok(Lease {
            id,
            client,
            leases: self.clone(),
        })
    }

    fn service(&self) -> LeasesClient<Scoped> {
        let (channel, scope) = self.client.channel();
        LeasesClient::with_interceptor(channel, scope)
    }
}

impl Lease {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is written through this client belongs to the lease.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Keeps a blob that is there already.
    pub async fn add_content(&self, digest: &Digest) -> Result<()> {
        let request = v1::AddResourceRequest {
            id: self.id.clone(),
            resource: Some(v1::Resource {
                id: digest.to_string(),
                r#type: "content".to_owned(),
            }),
        };
        let object = format!("blob {digest} or lease {}", self.id);
        let mut service = self.leases.service();
        let client = &self.leases.client;
        client
            .call("keeping", &object, service.add_resource(request))
            .await
    }

    /// Ends it: from here on only what refers to a blob keeps it. That it is gone already is no error.
    pub async fn delete(self) -> Result<()> {
        let request = v1::DeleteRequest {
            id: self.id.clone(),
            sync: false,
        };
        let object = format!("lease {}", self.id);
        let mut service = self.leases.service();
        let client = &self.leases.client;
        let deleted = client.call("ending", &object, service.delete(request));
        match deleted.await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }
}

/// When a lease of `now` expires; `None` if a label cannot say it.
fn expiry(now: SystemTime, lifetime: Duration) -> Option<Timestamp> {
    let expires = now.checked_add(lifetime)?;
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    (expires <= last).then(|| Timestamp::from(expires))
}

/// containerd wants an id from us; this one names who made it and when.
fn unique_id(purpose: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "pontoon-{purpose}-{}-{}-{}",
        now.as_nanos(),
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_expires_when_a_label_can_say_so() {
        let of = |seconds| Duration::from_secs(seconds);
        let shown = |now, lifetime| expiry(now, lifetime).map(|expires| expires.to_string());
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(
            shown(epoch, of(86_400)).as_deref(),
            Some("1970-01-02T00:00:00Z")
        );
        let last = Some("9999-12-31T23:59:59Z".to_owned());
        assert_eq!(shown(epoch, of(LAST_SECOND)), last);
        assert_eq!(shown(epoch, of(LAST_SECOND + 1)), None);
        assert_eq!(shown(SystemTime::now(), Duration::MAX), None);
    }
}
