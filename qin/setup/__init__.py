"""`qin init`: reads a stranger's log and writes settings for it, each with its reason, to be edited."""
