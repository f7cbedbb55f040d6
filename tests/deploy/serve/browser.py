"""A headless Chromium, driven through its DevTools protocol over a pipe."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

COMMAND = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Browser:
    """One page of a browser; ``async with Browser() as browser``."""

    async def __aenter__(self) -> Browser:
        assert COMMAND is not None
        self._folder = tempfile.TemporaryDirectory()
        read_theirs, write_ours = os.pipe()
        read_ours, write_theirs = os.pipe()

        # The browser reads commands from 3 and writes to 4; a shell puts them there, for a fork with Python in it would
        # warn beside JAX's threads.
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        moved = f'exec "$@" 3</dev/fd/{read_theirs} 4>/dev/fd/{write_theirs}'
        self._process = await asyncio.create_subprocess_exec(
            "sh", "-c", moved, "sh", COMMAND, *flags, f"--user-data-dir={self._folder.name}", "about:blank",
            pass_fds=(read_theirs, write_theirs), stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_theirs), os.close(write_theirs)
        self._write = os.fdopen(write_ours, "wb", buffering=0)
        self._reader = asyncio.StreamReader(limit=1 << 26)
        loop, pipe = asyncio.get_running_loop(), os.fdopen(read_ours, "rb", buffering=0)
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), pipe)
        self._number, self._session, self.trouble = 0, None, []
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._process.kill()
        await self._process.wait()
        self._write.close()
        self._transport.close()
        await asyncio.sleep(0.05)
        self._folder.cleanup()

    async def call(self, method: str, **parameters: Any) -> Any:
        """Make a call of the protocol; return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            async with asyncio.timeout(60):
                found = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if found.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.trouble.append(found["params"])
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression in the page is true."""
        async with asyncio.timeout(seconds):
            while not await self.run(script):
                await asyncio.sleep(0.1)

    async def open(self, url: str) -> None:
        """Open a page, and wait until its scripts have run."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    async def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the page, and which colours the person likes."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def choose(self, selector: str, files: list[str]) -> None:
        """Choose files in an input."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=files)

    async def drop(self, selector: str, files: list[str]) -> None:
        """Drag files from outside of the browser onto an element, and let go."""
        box = await self.run(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r})"
            ".getBoundingClientRect())"
        )
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": files, "dragOperationsMask": 1}
            await self.call("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)

    async def screenshot(self, path: str | Path) -> None:
        """Write a picture of the page."""
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(found["data"]))
