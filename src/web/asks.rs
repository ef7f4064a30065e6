//! What the page asks for: one function for each path.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use super::gallery::{Gallery, ImageId, Lack, MOST_UPLOAD, Seen};
use super::{AGAIN, Limits, Refusal};
use crate::eval::maps;
use crate::model::EncoderConfig;
use crate::run::exchange::Which;
use crate::run::show::png;

/// Samples listed at once, and neighbours, at most: what a page can show.
const MOST_LISTED: usize = 500;
/// Characters kept of an uploaded file's name.
const MOST_NAME: usize = 100;
/// How long an answer waits for neighbours before it says that they are not there yet.
const LEARNING: Duration = Duration::from_secs(1);

type Answer = Result<Response, Refusal>;

/// The gallery, and room for those who ask.
#[derive(Clone)]
pub struct Desk {
    gallery: Arc<Gallery>,
    uploads: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    wait: Duration,
    upload_time: Duration,
}

impl Desk {
    pub fn new(gallery: Arc<Gallery>, limits: Limits) -> Self {
        let [uploads, answers] = [limits.uploads, limits.answers].map(|most| Arc::new(Semaphore::new(most)));
        Self { gallery, uploads, answers, wait: limits.turn, upload_time: limits.upload_time }
    }

    /// Computes on a thread that may be kept busy, when it is this one's turn. The turn ends with the permit that is given
    /// back, or with the work where the one who asked has gone.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Gallery) -> T + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Refusal> {
        self.compute_in(self.turn().await?, work).await
    }

    /// As [`Self::compute`], in a turn that has begun.
    async fn compute_in<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        work: impl FnOnce(&Gallery) -> T + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Refusal> {
        let gallery = Arc::clone(&self.gallery);
        spawn_blocking(move || (work(&gallery), turn)).await.map_err(failed)
    }

    /// What the encoder makes of an image, when it is this one's turn: whoever holds it keeps memory.
    async fn look(&self, id: ImageId) -> Result<(Arc<Seen>, OwnedSemaphorePermit), Refusal> {
        let turn = self.turn().await?;
        Ok((self.gallery.look(id).await.map_err(unreadable)?, turn))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = timeout(self.wait, Arc::clone(&self.answers).acquire_owned()).await;
        let turn = turn.map_err(|_| Refusal::busy("others are being answered: try again in a moment"))?;
        turn.map_err(|error| unreadable(error.into()))
    }
}

pub async fn run(State(Desk { gallery, .. }): State<Desk>) -> Json<Value> {
    let frozen = &gallery.frozen;
    let encoder = &frozen.plan.models.encoder;
    let (kind, layer_name) = match encoder {
        EncoderConfig::Vit(_) => ("vit", "block"),
        EncoderConfig::Energy(_) => ("energy", "iteration"),
        EncoderConfig::ConvNext(_) => ("convnext", "stage"),
    };
    let (layers, heads) = encoder.attention();
    let label = |(&label, &samples): (&u32, &usize)| json!({ "label": label, "name": gallery.request.names.get(label as usize), "samples": samples });
    Json(json!({
        "run": gallery.request.run, "step": frozen.step, "encoder": encoder.describe(), "kind": kind,
        "which": if frozen.which == Which::Target { "target" } else { "encoder" },
        "side": encoder.image(), "covered": encoder.covered(), "grid": encoder.grid(), "layers": layers, "heads": heads, "layer_name": layer_name,
        "samples": gallery.held_out().len(), "labels": gallery.labels.iter().map(label).collect::<Vec<_>>(),
        "upload_bytes": MOST_UPLOAD, "neighbours": gallery.request.among > 0,
    }))
}

#[derive(Deserialize)]
pub struct SamplesQuery {
    label: Option<u32>,
    #[serde(default)]
    key: String,
    #[serde(default)]
    from: usize,
    #[serde(default = "a_page")]
    count: usize,
}

fn a_page() -> usize {
    24
}

pub async fn samples(State(desk): State<Desk>, query: Result<Query<SamplesQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    // There may be millions to go through.
    let (found, _) = desk.compute(move |gallery| found(gallery, &query)).await?;
    Ok(Json(found).into_response())
}

fn found(gallery: &Gallery, query: &SamplesQuery) -> Value {
    let set = gallery.held_out();
    let fits = |&number: &u32| {
        let sample = set.sample(number);
        query.label.is_none_or(|label| sample.label == Some(label)) && sample.key.contains(&query.key)
    };
    let found: Vec<u32> = (0..set.len() as u32).filter(fits).collect();
    let shown = found.iter().skip(query.from).take(query.count.min(MOST_LISTED));
    let samples = shown.map(|&number| described(gallery, ImageId::HeldOut(number))).collect::<Vec<_>>();
    json!({ "total": found.len(), "samples": samples })
}

fn described(gallery: &Gallery, id: ImageId) -> Value {
    let (key, label) = gallery.named(id);
    json!({ "id": id.to_string(), "key": key, "label": label })
}

pub async fn image(State(desk): State<Desk>, Path(id): Path<String>) -> Answer {
    let id = known(&desk, &id)?;
    let (drawn, _) = desk.compute(move |gallery| png(&gallery.view(id)?)).await?;
    Ok(([(CONTENT_TYPE, "image/png")], drawn.map_err(unreadable)?).into_response())
}

pub async fn upload(State(desk): State<Desk>, request: Request) -> Answer {
    let Ok(room) = Arc::clone(&desk.uploads).try_acquire_owned() else {
        return Err(Refusal::busy("others upload just now, as many as there is room for: try again in a moment"));
    };
    let name = request.headers().get(HeaderName::from_static("x-file-name"));
    let name = name.and_then(|name| plain_name(name.as_bytes()));
    let Ok(body) = timeout(desk.upload_time, Bytes::from_request(request, &())).await else {
        let seconds = desk.upload_time.as_secs_f64();
        return Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the file was not there after {seconds} s: choose a smaller one"),
        ));
    };
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the file is larger than {} MiB: choose a smaller one", MOST_UPLOAD >> 20),
        ),
        status => Refusal::new(status, error.body_text()),
    })?;
    let gallery = Arc::clone(&desk.gallery);
    let kept = spawn_blocking(move || (gallery.upload(name, body.into()), room)).await;
    let id = kept.map_err(failed)?.0.map_err(|error| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("no image that can be used: {error:#}"))
    })?;
    Ok(Json(described(&desk.gallery, id)).into_response())
}

/// A file's name, written with `%` and two digits for what is no plain letter.
fn plain_name(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((16 * high + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    let name: String = String::from_utf8(bytes).ok()?.chars().filter(|c| !c.is_control()).take(MOST_NAME).collect();
    (!name.trim().is_empty()).then_some(name)
}

pub async fn look(State(desk): State<Desk>, Path(id): Path<String>) -> Answer {
    let id = known(&desk, &id)?;
    let (seen, _turn) = desk.look(id).await?;
    let mut said = described(&desk.gallery, id);
    said["entropy"] = seen.entropies.clone().into();
    let energies = &seen.look.energies;
    said["energy"] = if energies.is_empty() { Value::Null } else { energies.clone().into() };
    Ok(Json(said).into_response())
}

pub async fn attention(State(desk): State<Desk>, Path((id, layer)): Path<(String, String)>) -> Answer {
    let (seen, layer, turn) = layer_of(&desk, &id, &layer).await?;
    let (numbers, turn) = desk.compute_in(turn, move |_| bytes(&seen.look.attention[layer])).await?;
    Ok(answer(numbers, turn))
}

pub async fn rollout(State(desk): State<Desk>, Path((id, layer)): Path<(String, String)>) -> Answer {
    let (seen, layer, turn) = layer_of(&desk, &id, &layer).await?;
    let work = move |_: &Gallery| {
        let layers = seen.look.attention.iter().take(layer + 1).map(Vec::as_slice);
        bytes(&maps::rollout(layers, seen.look.patches).pop().unwrap_or_default())
    };
    let (numbers, turn) = desk.compute_in(turn, work).await?;
    Ok(answer(numbers, turn))
}

pub async fn similarity(State(desk): State<Desk>, Path(id): Path<String>) -> Answer {
    let (seen, turn) = desk.look(known(&desk, &id)?).await?;
    let work = move |_: &Gallery| bytes(&maps::similarity(&seen.look.features, seen.look.width()));
    let (numbers, turn) = desk.compute_in(turn, work).await?;
    Ok(answer(numbers, turn))
}

#[derive(Deserialize)]
pub struct NeighboursQuery {
    #[serde(default = "a_row")]
    count: usize,
}

fn a_row() -> usize {
    8
}

pub async fn neighbours(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    query: Result<Query<NeighboursQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let id = known(&desk, &id)?;
    if desk.gallery.request.among == 0 {
        return Err(Refusal::missing("neighbours are not looked for: start with --neighbours-among above 0"));
    }
    // Whether they are there is asked below.
    let _ = timeout(LEARNING, desk.gallery.learnt()).await;
    let (seen, turn) = desk.look(id).await?;
    let own = if let ImageId::Train(number) = id { Some(number) } else { None };
    let count = query.count.clamp(1, MOST_LISTED);
    let (found, _) = desk.compute_in(turn, move |gallery| gallery.neighbours(&seen.look, count, own)).await?;
    let near = match found {
        Ok(near) => near,
        Err(Lack::Early { done, of }) => {
            let why = json!({ "error": "the training samples are being encoded", "done": done, "of": of });
            return Ok((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, AGAIN)], Json(why)).into_response());
        }
        Err(Lack::Failed(why)) => {
            return Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the training samples cannot be encoded: {why}"),
            ));
        }
    };
    let near = near.iter().map(|near| {
        let id = ImageId::Train(near.sample);
        json!({ "id": id.to_string(), "key": desk.gallery.named(id).0, "label": near.label, "similarity": near.cosine })
    });
    Ok(Json(json!({ "neighbours": near.collect::<Vec<_>>() })).into_response())
}

fn known(desk: &Desk, id: &str) -> Result<ImageId, Refusal> {
    let parsed = id.parse::<ImageId>().ok().filter(|&id| desk.gallery.has(id));
    parsed.ok_or_else(|| Refusal::missing(format!("{id}: there is no such image")))
}

async fn layer_of(desk: &Desk, id: &str, layer: &str) -> Result<(Arc<Seen>, usize, OwnedSemaphorePermit), Refusal> {
    let id = known(desk, id)?;
    let Ok(layer) = layer.parse::<usize>() else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{layer}: no number of a layer")));
    };
    let (layers, _) = desk.gallery.frozen.plan.models.encoder.attention();
    if layer >= layers {
        return Err(Refusal::missing(format!("layer {layer}: the encoder has {layers} that attend, from 0 on")));
    }
    let (seen, turn) = desk.look(id).await?;
    Ok((seen, layer, turn))
}

/// A sample that cannot be read any more, or an encoder that failed: nothing that the page did wrong.
fn unreadable(error: anyhow::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}

fn failed(error: JoinError) -> Refusal {
    unreadable(error.into())
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Bytes that take up their turn until the client has them.
fn answer(bytes: Vec<u8>, turn: OwnedSemaphorePermit) -> Response {
    struct Held(Vec<u8>, #[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    ([(CONTENT_TYPE, "application/octet-stream")], Bytes::from_owner(Held(bytes, turn))).into_response()
}
