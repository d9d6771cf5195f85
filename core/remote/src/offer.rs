//! What containerd is answered when it wants to extract a layer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_overlay::{LayerRequest, Offer, SnapshotId};

use crate::anywhere::Place;
use crate::image::{Image, Part};
use crate::labels::{self, Wanted};
use crate::nydus::Role;
use crate::parents::Parents;
use crate::reason::{self, Refusal};
use crate::record::Record;
use crate::{Remote, unpack};

/// A layer that containerd cannot unpack may take so many times as long: the pull fails without it.
const FINAL_TIMES: u32 = 5;

/// What a layer became.
enum Brought {
    Lazy(Record, Arc<Image>),
    /// Nothing, because its bytes belong to another one. What is recorded of it.
    Data(Vec<u8>),
    /// Unpacked here, because it cannot be lazy.
    Unpacked(Refusal),
}

impl Remote {
    pub(crate) fn answer(&self, request: &LayerRequest<'_>) -> Offer {
        let decisions = &self.shared.decisions;
        // What is right on data is data or its bootstrap, also where its annotations were lost.
        let below = request.chain.links.first();
        let below = below.and_then(|link| link.layer.as_deref());
        let is_final = labels::is_nydus(request.labels) || below.is_some_and(Record::is_data);
        let and_final = |refusal: Refusal| match is_final {
            true => refusal.and_final(),
            false => refusal,
        };
        let wanted = match Wanted::read(request.labels) {
            Ok(wanted) => wanted,
            Err(refusal) => {
                let refusal = and_final(refusal);
                decisions.unknown(&refusal);
                return declined(request, &refusal);
            }
        };
        let image = wanted.image.reference.to_string();
        match self.bring(&wanted, request, is_final) {
            Ok(Brought::Lazy(record, of)) => {
                decisions.lazy(&image, &wanted.layer);
                self.prefetch(&of, &record, wanted.prefetch_bytes);
                Offer::Lazy(record.encode())
            }
            Ok(Brought::Data(record)) => {
                decisions.lazy(&image, &wanted.layer);
                Offer::Lazy(record)
            }
            Ok(Brought::Unpacked(why)) => {
                decisions.ordinary(&image, &wanted.layer, true, &why, request.id);
                Offer::Unpacked
            }
            Err(refusal) => {
                let refusal = and_final(refusal);
                decisions.ordinary(&image, &wanted.layer, false, &refusal, request.id);
                declined(request, &refusal)
            }
        }
    }

    /// What becomes of the layer; `is_final` if its labels say that containerd cannot unpack it.
    fn bring(
        &self,
        wanted: &Wanted,
        request: &LayerRequest<'_>,
        is_final: bool,
    ) -> Result<Brought, Refusal> {
        let shared = &self.shared;
        let begun = Instant::now();
        let deadline = begun + self.patience(is_final);
        let everything = shared.config.unpack.everything;
        let image = self.image(wanted, Some(deadline).filter(|_| !everything))?;
        let part = image
            .part(&wanted.layer)
            .ok_or_else(|| Refusal::new(reason::NOT_IN_IMAGE))?;
        part.learn(shared, &wanted.annotations);
        if !matches!(part.role, Role::Layer) {
            let brought = self.nydus(&image, part, request, begun);
            if brought.as_ref().is_err_and(|refusal| !refusal.transient) {
                shared.sessions.refused(&wanted.image);
            }
            return brought.map_err(Refusal::and_final);
        }
        let parents = Parents::of(&request.chain, shared.stock.trees());
        let parents = parents.map_err(|error| Refusal::store(&error))?;
        image.expect(shared, part.index);
        if part.is_candidate() {
            match self.lazy(&image, part, &parents, deadline, request.id) {
                Ok(record) => return Ok(Brought::Lazy(record, image)),
                // It may be lazy the next time. Unpacking it now would take longer.
                Err(refusal) if refusal.transient => return Err(refusal),
                Err(refusal) => {
                    let _ = part.failed.set(refusal);
                }
            }
        }
        if !image.can_be_lazy() && !everything {
            image.layers.iter().for_each(Part::stop_download);
            return Err(image.ordinary());
        }
        let failed = part.failed.get().cloned();
        let why = failed.unwrap_or_else(|| Refusal::new(reason::UNLISTED));
        let wait = begun + shared.config.unpack.wait;
        let deadline = Some(wait.min(deadline)).filter(|_| !everything);
        unpack::unpack(shared, &image, part, &parents, request.directory, deadline)?;
        Ok(Brought::Unpacked(why))
    }

    /// What becomes of a layer of an image in nydus' form.
    fn nydus(
        &self,
        image: &Arc<Image>,
        part: &Part,
        request: &LayerRequest<'_>,
        begun: Instant,
    ) -> Result<Brought, Refusal> {
        let shared = &self.shared;
        if let Some(refusal) = part.failed.get() {
            return Err(refusal.clone());
        }
        image.expect(shared, part.index);
        if let Role::Data = part.role {
            let is_bootstrap = |part: &Part| matches!(part.role, Role::Bootstrap(_));
            if !image.layers.iter().any(is_bootstrap) {
                return Err(Refusal::new(reason::NO_BOOTSTRAP));
            }
            let place = Place::of(&part.descriptor);
            let record = Record::of_data(&place, &image.reference.to_string());
            return Ok(Brought::Data(record));
        }
        let parents = Parents::of(&request.chain, shared.stock.trees());
        let parents = parents.map_err(|error| Refusal::store(&error))?;
        let deadline = begun + self.patience(true);
        match self.lazy(image, part, &parents, deadline, request.id) {
            Ok(record) => Ok(Brought::Lazy(record, Arc::clone(image))),
            Err(refusal) => {
                if !refusal.transient {
                    let _ = part.failed.set(refusal.clone());
                }
                Err(refusal)
            }
        }
    }

    /// How long a Prepare waits.
    fn patience(&self, is_final: bool) -> Duration {
        let deadline = self.shared.config.lazy.deadline;
        match is_final {
            true => deadline * FINAL_TIMES,
            false => deadline,
        }
    }

    fn image(&self, wanted: &Wanted, deadline: Option<Instant>) -> Result<Arc<Image>, Refusal> {
        let shared = &self.shared;
        let session = shared.sessions.of(shared, wanted);
        let image = session.image(shared, deadline)?;
        // Without a digest it is the tag that was resolved, and that may have moved since.
        if image.part(&wanted.layer).is_some() || wanted.image.manifest.is_some() {
            return Ok(image);
        }
        shared.sessions.forget(&wanted.image);
        let session = shared.sessions.of(shared, wanted);
        session.image(shared, deadline)
    }

    fn lazy(
        &self,
        image: &Image,
        part: &Part,
        parents: &Parents,
        deadline: Instant,
        id: SnapshotId,
    ) -> Result<Record, Refusal> {
        let shared = &self.shared;
        let unverifiable = || Refusal::new(reason::UNVERIFIABLE);
        let key = part.key().ok_or_else(unverifiable)?;
        let built = part.lazy(shared, &image.reference, &key, parents);
        let built = built.wait_until(&shared.runtime, Some(deadline));
        let hold = built.ok_or_else(|| slow(part))??;
        let reference = image.reference.to_string();
        Ok(shared.stock.refer(&hold.item, id, &reference))
    }
}

/// Why a layer is not brought whose tree is late.
fn slow(part: &Part) -> Refusal {
    Refusal::for_now(match part.role {
        Role::Layer => reason::SLOW_TOC,
        _ => reason::SLOW_BOOTSTRAP,
    })
}

fn declined(request: &LayerRequest<'_>, refusal: &Refusal) -> Offer {
    if let Some(detail) = &refusal.detail {
        tracing::info!(
            key = %request.key,
            target = request.target,
            reason = refusal.reason,
            detail,
            "a layer is not lazy"
        );
    }
    if refusal.is_final {
        return Offer::Refuse {
            reason: refusal.reason.to_owned(),
            detail: refusal.detail.clone(),
            transient: refusal.transient,
        };
    }
    if matches!(refusal.reason, reason::SLOW_LAYER | reason::LARGE_LAYER) {
        tracing::warn!(
            key = %request.key,
            reason = refusal.reason,
            "containerd now downloads this layer and every layer above it as a whole; convert the whole image to make it lazy"
        );
    }
    Offer::Decline(refusal.reason.to_owned())
}
