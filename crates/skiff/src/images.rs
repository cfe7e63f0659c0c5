//! The image commands of the control socket.

use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use skiff_cri::{
    Image, ImageService, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest, RemoveImageRequest,
};
use skiff_runtime::image::{ImageRecord, ImageStore};

use crate::runtime::NodeRuntime;

/// The images of the node: the interface's view, and the embedded runtime's store where that is the runtime.
pub struct NodeImages {
    service: Arc<dyn ImageService>,
    store: Option<ImageStore>,
    endpoint: String,
}

impl NodeImages {
    /// The images of a runtime.
    pub fn of(runtime: &NodeRuntime) -> Self {
        let endpoint = runtime.endpoint.clone().unwrap_or_default();
        Self { service: runtime.images.clone(), store: runtime.store.clone(), endpoint }
    }

    fn store(&self, verb: &str) -> Result<&ImageStore, String> {
        self.store.as_ref().ok_or_else(|| {
            format!(
                "the images are kept by the container runtime at {}, which cannot {verb} images through its interface; \
                 use its own tool (for containerd: ctr --namespace k8s.io images {verb})",
                self.endpoint
            )
        })
    }

    async fn find(&self, name: &str) -> Result<Option<Image>, String> {
        let request = ImageStatusRequest { image: Some(spec(name)), verbose: false };
        Ok(self.service.image_status(request).await.map_err(|error| error.message)?.image)
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..ImageSpec::default() }
}

/// Answers one command below `/images`.
///
/// # Errors
/// The image is not what it should be, or is not there; the text is for people.
pub async fn command(images: &NodeImages, method: &Method, path: &str, body: &Value) -> Result<Value, String> {
    let text = |field: &str| body[field].as_str().map(str::to_owned).ok_or_else(|| format!("{field} is missing"));
    match (method, path) {
        (&Method::GET, "/images") => {
            let listed = images.service.list_images(ListImagesRequest::default()).await;
            Ok(json!({ "images": list(&listed.map_err(|error| error.message)?.images) }))
        }
        (&Method::POST, "/images/import") => {
            let file = PathBuf::from(text("file")?);
            let imported = images.store("import")?.import(file, &[]).await.map_err(|error| error.message)?;
            let names: Vec<_> = imported.iter().flat_map(record_names).collect();
            Ok(json!({ "images": names }))
        }
        (&Method::POST, "/images/save") => {
            let names: Vec<String> =
                serde_json::from_value(body["images"].clone()).map_err(|error| error.to_string())?;
            let saved = images.store("export")?.save(&names, text("file")?).await;
            saved.map(|()| json!({})).map_err(|error| error.message)
        }
        (&Method::POST, "/images/push") => {
            let pushed = images.store("push")?.push(&text("image")?, None).await;
            pushed.map(|()| json!({})).map_err(|error| error.message)
        }
        (&Method::POST, "/images/pull") => {
            let name = text("image")?;
            let request = PullImageRequest { image: Some(spec(&name)), ..PullImageRequest::default() };
            let pulled = images.service.pull_image(request).await.map_err(|error| error.message)?;
            let image = images.find(&pulled.image_ref).await?;
            Ok(json!({ "image": image.map_or(vec![name], |image| names(&image)).first() }))
        }
        (&Method::POST, "/images/remove") => {
            let name = text("image")?;
            if images.find(&name).await?.is_none() {
                return Err(format!("there is no image {name}; skiff image list shows them"));
            }
            let request = RemoveImageRequest { image: Some(spec(&name)) };
            images.service.remove_image(request).await.map_err(|error| error.message)?;
            Ok(json!({}))
        }
        _ => Err(format!("unknown command {method} {path}")),
    }
}

/// The names of an image, or its id where it has none.
fn names(image: &Image) -> Vec<String> {
    named(&image.repo_tags, &image.repo_digests, &image.id)
}

fn record_names(image: &ImageRecord) -> Vec<String> {
    named(&image.tags, &image.digests, &image.id.to_string())
}

fn named(tags: &[String], digests: &[String], id: &str) -> Vec<String> {
    let named = if tags.is_empty() { digests } else { tags };
    if named.is_empty() { vec![id.to_owned()] } else { named.to_vec() }
}

fn list(images: &[Image]) -> Vec<Value> {
    let rows = images.iter().flat_map(|image| names(image).into_iter().map(move |name| (name, image)));
    rows.map(|(name, image)| json!({"name": name, "id": image.id, "size_bytes": image.size})).collect()
}
