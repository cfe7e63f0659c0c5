//! The image commands of the control socket.

use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};
use skiff_runtime::image::{ImageRecord, ImageStore};

/// Answers one command below `/images`.
///
/// # Errors
/// The image is not what it should be, or is not there; the text is for people.
pub async fn command(store: &ImageStore, method: &Method, path: &str, body: &Value) -> Result<Value, String> {
    let text = |field: &str| body[field].as_str().map(str::to_owned).ok_or_else(|| format!("{field} is missing"));
    match (method, path) {
        (&Method::GET, "/images") => Ok(json!({ "images": list(&store.images()) })),
        (&Method::POST, "/images/import") => {
            let imported = store.import(PathBuf::from(text("file")?), &[]).await.map_err(|error| error.message)?;
            let names: Vec<_> = imported.iter().flat_map(names).collect();
            Ok(json!({ "images": names }))
        }
        (&Method::POST, "/images/pull") => {
            let image = store.pull(&text("image")?, None, &|_| {}).await.map_err(|error| error.message)?;
            Ok(json!({ "image": names(&image).first() }))
        }
        (&Method::POST, "/images/remove") => {
            let image = text("image")?;
            if store.find(&image).is_none() {
                return Err(format!("there is no image {image}; skiff image list shows them"));
            }
            store.remove(&image).await.map_err(|error| error.message)?;
            Ok(json!({}))
        }
        _ => Err(format!("unknown command {method} {path}")),
    }
}

/// The names of an image, or its id where it has none.
fn names(image: &ImageRecord) -> Vec<String> {
    let named: Vec<_> = if image.tags.is_empty() { image.digests.clone() } else { image.tags.clone() };
    if named.is_empty() { vec![image.id.to_string()] } else { named }
}

fn list(images: &[ImageRecord]) -> Vec<Value> {
    let rows = images.iter().flat_map(|image| names(image).into_iter().map(move |name| (name, image)));
    rows.map(|(name, image)| json!({"name": name, "id": image.id.to_string(), "size_bytes": image.size_bytes}))
        .collect()
}
