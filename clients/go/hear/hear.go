// Package hear prints what all these programs print: one JSON line for each thing that happened, see ../../README.md.
package hear

import (
	"encoding/json"
	"os"
	"strconv"
)

// URL is what to listen to.
func URL() string { return os.Args[1] }

// ComesBackAlways says what the application does when the server has ended the stream in order.
func ComesBackAlways() bool { return os.Getenv("COME_BACK") == "always" }

// MaxLine is how long a line the application allows, or 0 for what the library allows.
func MaxLine() int {
	bytes, _ := strconv.Atoi(os.Getenv("MAX_LINE"))
	return bytes
}

func tell(line map[string]string) {
	json.NewEncoder(os.Stdout).Encode(line)
}

// Open tells that the stream is open.
func Open() { tell(map[string]string{"what": "open"}) }

// Event tells what the library handed on.
func Event(kind, id, data string) {
	tell(map[string]string{"what": "event", "type": kind, "id": id, "data": data})
}

// Error tells what the library said of a lost connection.
func Error(err error) { tell(map[string]string{"what": "error", "why": err.Error()}) }

// End tells that the library will not come back.
func End(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	tell(map[string]string{"what": "end", "why": why})
}
