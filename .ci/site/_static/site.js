// Opened from a disk, a page may not read another one: the search then lists titles without an excerpt, instead of an error for each.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
