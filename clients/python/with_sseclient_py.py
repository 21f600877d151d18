"""sseclient-py, which parses what `requests` reads."""

import requests
import sseclient
from hear import URL, come_back, heard, tell


def listen(place):
    with requests.get(URL, stream=True, headers=place.headers()) as response:
        response.raise_for_status()
        tell("open")
        for event in sseclient.SSEClient(response).events():
            place.keep(event.id, event.retry)
            heard(event.event, event.id, event.data)


come_back(listen, requests.RequestException)
