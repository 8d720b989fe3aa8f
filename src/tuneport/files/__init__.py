"""Files of others, and files of ours that others read: opened within bounds, checked, made safe to show."""
