# proto-bytes.awk - the build copy of a .proto file that the C code is generated from.
#
# protobuf-c hands out proto `string` fields as char pointers without a length, so a NUL
# inside a string silently cuts it and invalid UTF-8 passes unseen. On the wire `string`
# and `bytes` are the same, so the copy declares every string as bytes and the generated
# structs carry pointer and length; the server checks the text itself. protobuf-c's field
# option string_as_bytes does the same for plain fields but cannot reach the key and value
# of a map, which is why the type is changed instead.
#
#   string name = 1;                ->  bytes name = 1;
#   map<string, V> name = 2;        ->  message NameEntry { bytes key = 1; V value = 2; }
#                                       repeated NameEntry name = 2;   (as it is on the wire)
#                                       repeated NameEntry name = 2;  (a map on the wire)
#   google.api annotations          ->  dropped (imports, and one-line options in an rpc)
#
# Rejected: proto3 `optional` (protoc-c 1.4.1 does not know it).
# Fails with file:line on stderr. A map and a google.api option must begin their line.

function die(msg)
{
    printf "%s:%d: %s\n", FILENAME, FNR, msg > "/dev/stderr"
    failed = 1
    exit 1
}

function camel(name,    out, i, n, part)
{
    n = split(name, part, "_")
    out = ""
    for (i = 1; i <= n; i++)
        out = out toupper(substr(part[i], 1, 1)) substr(part[i], 2)
    return out
}

function indent_of(line)
{
    match(line, /^[ \t]*/)
    return substr(line, 1, RLENGTH)
}

function bytes_for(type)
{
    return type == "string" ? "bytes" : type
}

# Every field of type string in a line, wherever it stands (a oneof may be on one line).
function string_to_bytes(line,    at)
{
    while (match(line, /(^|[ \t{;])string[ \t]+[A-Za-z_][A-Za-z_0-9]*[ \t]*=/)) {
        at = RSTART + (substr(line, RSTART, 1) == "s" ? 0 : 1)
        line = substr(line, 1, at - 1) "bytes" substr(line, at + length("string"))
    }
    return line
}

# "  map<string, V> name = 2;" becomes the entry message and a repeated field of it.
function emit_map(line,    ind, key, value, name, rest)
{
    ind = indent_of(line)
    rest = line
    sub(/^[ \t]*map[ \t]*<[ \t]*/, "", rest)
    key = rest
    sub(/[ \t]*,.*/, "", key)
    value = rest
    sub(/^[^,]*,[ \t]*/, "", value)
    sub(/[ \t]*>.*/, "", value)
    sub(/^[^>]*>[ \t]*/, "", rest)
    name = rest
    sub(/[ \t]*=.*/, "", name)
    sub(/^[^=]*/, "", rest)
    printf "%smessage %sEntry { %s key = 1; %s value = 2; }", ind, camel(name),
           bytes_for(key), bytes_for(value)
    printf " repeated %sEntry %s %s\n", camel(name), name, rest
}

/^[ \t]*optional[ \t]/ {
    die("proto3 'optional' is not supported by protoc-c; use a message or a oneof")
}
/^[ \t]*import[ \t]+"google\/api\// { print ""; next }
/^[ \t]*option[ \t]*\(google\.api\./ {
    if ($0 !~ /;[ \t]*$/)
        die("a google.api option must fit on one line")
    print ""
    next
}
/^[ \t]*import[ \t]+"[^\/"]+\.proto"/ { sub(/"/, "\"proto/") }
/^[ \t]*map[ \t]*</ { emit_map($0); next }
{ print string_to_bytes($0) }
END { exit failed }
