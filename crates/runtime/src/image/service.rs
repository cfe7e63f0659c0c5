//! The image service of CRI over the image store.

use std::collections::HashMap;

use async_trait::async_trait;
use skiff_cri::*;

use super::{ImageRecord, ImageStore};

#[async_trait]
impl ImageService for ImageStore {
    async fn list_images(&self, request: ListImagesRequest) -> CriResult<ListImagesResponse> {
        let wanted = request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let images = if wanted.is_empty() { self.images() } else { self.find(&wanted).into_iter().collect() };
        Ok(ListImagesResponse { images: images.iter().map(image).collect() })
    }

    async fn image_status(&self, request: ImageStatusRequest) -> CriResult<ImageStatusResponse> {
        let name = request.image.map(|image| image.image).unwrap_or_default();
        let Some(record) = self.find(&name) else { return Ok(ImageStatusResponse::default()) };
        let mut info = HashMap::new();
        if request.verbose {
            let text = serde_json::to_string(&record).map_err(|error| CriError::internal(error.to_string()))?;
            info.insert("info".to_owned(), text);
        }
        Ok(ImageStatusResponse { image: Some(image(&record)), info })
    }

    async fn pull_image(&self, request: PullImageRequest) -> CriResult<PullImageResponse> {
        self.pull_image_with_progress(request, &|_| {}).await
    }

    async fn pull_image_with_progress(
        &self,
        request: PullImageRequest,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> CriResult<PullImageResponse> {
        let name = request.image.map(|image| image.image).unwrap_or_default();
        let record = self.pull(&name, request.auth.as_ref(), progress).await?;
        Ok(PullImageResponse { image_ref: record.id.to_string() })
    }

    async fn remove_image(&self, request: RemoveImageRequest) -> CriResult<RemoveImageResponse> {
        self.remove(&request.image.map(|image| image.image).unwrap_or_default()).await?;
        Ok(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> CriResult<ImageFsInfoResponse> {
        let usage = self.usage();
        let mountpoint = self.root().display().to_string();
        let now = self.inner.options.clock.now().as_nanosecond();
        let filesystem = FilesystemUsage {
            timestamp: i64::try_from(now).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes }),
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![filesystem.clone()], container_filesystems: vec![filesystem] })
    }
}

/// An image as CRI shows it. A user that is a number is shown as one, for `runAsNonRoot`.
fn image(record: &ImageRecord) -> Image {
    let user = record.config.user.as_deref().unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    Image {
        id: record.id.to_string(),
        repo_tags: record.tags.clone(),
        repo_digests: record.digests.clone(),
        size: record.size_bytes,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|value| Int64Value { value }),
        spec: Some(ImageSpec { image: record.id.to_string(), ..ImageSpec::default() }),
        pinned: record.pinned,
    }
}
