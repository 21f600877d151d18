// eventsource 2.

import EventSource from 'eventsource2';
import { listenTo, url } from './hear.mjs';

listenTo(new EventSource(url));
