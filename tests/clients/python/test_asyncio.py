"""Drives the server with the asynchronous Python client."""

import asyncio
import unittest

from kubernetes_asyncio import client, config, watch
from kubernetes_asyncio.stream import WsApiClient


class AsyncClient(unittest.IsolatedAsyncioTestCase):
    async def test_watch_and_exec(self):
        await config.load_kube_config()
        async with client.ApiClient() as api:
            core = client.CoreV1Api(api)
            pod = {
                "metadata": {"name": "async", "labels": {"app": "async"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "localhost:5000/hello:v1", "command": ["sleep", "1000"]}],
                },
            }
            await core.create_namespaced_pod("default", pod)
            async with watch.Watch().stream(core.list_namespaced_pod, "default", label_selector="app=async") as events:
                async with asyncio.timeout(60):
                    async for event in events:
                        if event["object"].status.phase == "Running":
                            break
            async with WsApiClient() as streams:
                said = await client.CoreV1Api(streams).connect_get_namespaced_pod_exec(
                    "async", "default", command=["echo", "hi"], stderr=True, stdin=False, stdout=True, tty=False
                )
            self.assertEqual(said, "hi\n")
            await core.delete_namespaced_pod("async", "default")


if __name__ == "__main__":
    unittest.main()
