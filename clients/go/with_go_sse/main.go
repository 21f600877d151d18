// Command with_go_sse listens with github.com/tmaxmax/go-sse.
package main

import (
	"net/http"
	"time"

	"github.com/tmaxmax/go-sse"

	"sse-gateway/clients/hear"
)

func main() {
	request, err := http.NewRequest(http.MethodGet, hear.URL(), http.NoBody)
	if err != nil {
		panic(err)
	}
	client := sse.Client{
		HTTPClient:        http.DefaultClient,
		ResponseValidator: sse.DefaultValidator,
		Backoff:           sse.DefaultClient.Backoff,
		OnRetry:           func(err error, _ time.Duration) { hear.Error(err) },
	}
	connection := client.NewConnection(request)
	if bytes := hear.MaxLine(); bytes > 0 {
		connection.Buffer(nil, bytes)
	}
	connection.SubscribeToAll(func(event sse.Event) {
		hear.Event(event.Type, event.LastEventID, event.Data)
	})
	hear.End(connection.Connect())
}
