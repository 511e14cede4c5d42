"""Collection over many hosts through Redis: the stream, its drainers, shared quotas."""
