//! What the page asks for: one function for each path.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Refusal;
use super::gallery::{Gallery, ImageId, MOST_UPLOAD};
use crate::eval::maps;
use crate::model::EncoderConfig;
use crate::run::exchange::Which;
use crate::run::look::Look;
use crate::run::show::png;

/// Samples listed at once, and neighbours, at most: what a page can show.
const MOST_LISTED: usize = 500;
/// Characters kept of an uploaded file's name.
const MOST_NAME: usize = 100;

type Answer = Result<Response, Refusal>;
type Shared = State<Arc<Gallery>>;

pub async fn run(State(gallery): Shared) -> Json<Value> {
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
        "side": encoder.image(), "grid": encoder.grid(), "layers": layers, "heads": heads, "layer_name": layer_name,
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

pub async fn samples(State(gallery): Shared, query: Result<Query<SamplesQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let set = gallery.held_out();
    let fits = |&number: &u32| {
        let sample = set.sample(number);
        query.label.is_none_or(|label| sample.label == Some(label)) && sample.key.contains(&query.key)
    };
    let found: Vec<u32> = (0..set.len() as u32).filter(fits).collect();
    let shown = found.iter().skip(query.from).take(query.count.min(MOST_LISTED));
    let samples = shown.map(|&number| described(&gallery, ImageId::HeldOut(number))).collect::<Vec<_>>();
    Ok(Json(json!({ "total": found.len(), "samples": samples })).into_response())
}

fn described(gallery: &Gallery, id: ImageId) -> Value {
    let (key, label) = gallery.named(id);
    json!({ "id": id.to_string(), "key": key, "label": label })
}

pub async fn image(State(gallery): Shared, Path(id): Path<String>) -> Answer {
    let id = known(&gallery, &id)?;
    let drawn = tokio::task::spawn_blocking(move || png(&gallery.view(id)?));
    let png = drawn.await.map_err(anyhow::Error::from).flatten().map_err(unreadable)?;
    Ok(([(CONTENT_TYPE, "image/png")], png).into_response())
}

pub async fn upload(State(gallery): Shared, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Answer {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the file is larger than {} MiB: choose a smaller one", MOST_UPLOAD >> 20),
        ),
        status => Refusal::new(status, error.body_text()),
    })?;
    let name = headers.get(HeaderName::from_static("x-file-name")).and_then(|name| plain_name(name.as_bytes()));
    let stored = Arc::clone(&gallery);
    let kept = tokio::task::spawn_blocking(move || stored.upload(name, body.into())).await;
    let id = kept.map_err(anyhow::Error::from).flatten().map_err(|error| {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("no image that can be used: {error:#}"))
    })?;
    Ok(Json(described(&gallery, id)).into_response())
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

pub async fn look(State(gallery): Shared, Path(id): Path<String>) -> Answer {
    let id = known(&gallery, &id)?;
    let look = gallery.look(id).await.map_err(unreadable)?;
    let map = look.patches * look.patches;
    let of_layer = |layer: &Vec<f32>| -> Vec<f64> {
        layer.chunks(map.max(1)).map(|head| maps::entropy(head, look.patches)).collect()
    };
    let mut said = described(&gallery, id);
    said["entropy"] = look.attention.iter().map(of_layer).collect::<Vec<_>>().into();
    said["energy"] = if look.energies.is_empty() { Value::Null } else { look.energies.clone().into() };
    Ok(Json(said).into_response())
}

pub async fn attention(State(gallery): Shared, Path((id, layer)): Path<(String, String)>) -> Answer {
    let (look, layer) = layer_of(&gallery, &id, &layer).await?;
    Ok(floats(&look.attention[layer]))
}

pub async fn rollout(State(gallery): Shared, Path((id, layer)): Path<(String, String)>) -> Answer {
    let (look, layer) = layer_of(&gallery, &id, &layer).await?;
    let computed = tokio::task::spawn_blocking(move || {
        let layers = look.attention.iter().take(layer + 1).map(Vec::as_slice);
        maps::rollout(layers, look.patches).pop().unwrap_or_default()
    });
    Ok(floats(&computed.await.map_err(|error| unreadable(error.into()))?))
}

pub async fn similarity(State(gallery): Shared, Path(id): Path<String>) -> Answer {
    let id = known(&gallery, &id)?;
    let look = gallery.look(id).await.map_err(unreadable)?;
    let computed = tokio::task::spawn_blocking(move || maps::similarity(&look.features, look.width()));
    Ok(floats(&computed.await.map_err(|error| unreadable(error.into()))?))
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
    State(gallery): Shared,
    Path(id): Path<String>,
    query: Result<Query<NeighboursQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let id = known(&gallery, &id)?;
    if gallery.request.among == 0 {
        return Err(Refusal::missing("neighbours are not looked for: start with --neighbours-among above 0"));
    }
    let look = gallery.look(id).await.map_err(unreadable)?;
    let own = if let ImageId::Train(number) = id { Some(number) } else { None };
    let Some(near) = gallery.neighbours(&look, query.count.clamp(1, MOST_LISTED), own) else {
        let (done, of) = gallery.learning();
        let why = json!({ "error": "the training samples are being encoded", "done": done, "of": of });
        return Ok((StatusCode::SERVICE_UNAVAILABLE, Json(why)).into_response());
    };
    let near = near.iter().map(|near| {
        let id = ImageId::Train(near.sample);
        json!({ "id": id.to_string(), "key": gallery.named(id).0, "label": near.label, "similarity": near.cosine })
    });
    Ok(Json(json!({ "neighbours": near.collect::<Vec<_>>() })).into_response())
}

fn known(gallery: &Gallery, id: &str) -> Result<ImageId, Refusal> {
    let parsed = id.parse::<ImageId>().ok().filter(|&id| gallery.has(id));
    parsed.ok_or_else(|| Refusal::missing(format!("{id}: there is no such image")))
}

async fn layer_of(gallery: &Arc<Gallery>, id: &str, layer: &str) -> Result<(Arc<Look>, usize), Refusal> {
    let id = known(gallery, id)?;
    let Ok(layer) = layer.parse::<usize>() else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{layer}: no number of a layer")));
    };
    let (layers, _) = gallery.frozen.plan.models.encoder.attention();
    if layer >= layers {
        return Err(Refusal::missing(format!("layer {layer}: the encoder has {layers} that attend, from 0 on")));
    }
    Ok((gallery.look(id).await.map_err(unreadable)?, layer))
}

/// A sample that cannot be read any more, or an encoder that failed: nothing that the page did wrong.
fn unreadable(error: anyhow::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}

fn floats(numbers: &[f32]) -> Response {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    ([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
