# loopTurn: a scripted operation of DCSS that turns the sample once before the camera and says where
# the loop shows its face.
#
#     loopTurn [delta_deg] [time_s] [fps]
#     -> face_deg tipX tipY minY maxY edge_deg minY maxY count failed
#
# face_deg and edge_deg are turns from where the spindle stood; all else are fractions of the
# picture, first at the face, then at the edge. Put it among DCSS's scripted operations, and into
# its database with the operations of `skywright loop dhs`.

proc loopTurn_initialize {} {}

proc loopTurn_start { {delta_deg 180.0} {time_s 3.0} {fps 30.0} } {
    set rows [loopTurn_collect $delta_deg $time_s]
    set expected [expr {round($fps * $time_s)}]
    set count [dict size $rows]
    if {$count != $expected} {
        # Then a picture's number does not tell its angle well: repeat, or go on with care.
        log_warning loopTurn: $count pictures of $expected
    }
    set step_deg [expr {$delta_deg / double($expected)}]

    set face [loopTurn_widest $rows]
    set edge [loopTurn_nearest $rows [expr {$face + 90.0 / $step_deg}] [expr {180.0 / $step_deg}]]
    set tip [lrange [dict get $rows $face] 1 2]
    set reply [list [loopTurn_angle $face $step_deg] {*}$tip {*}[loopTurn_rebox $rows $face]]
    lappend reply [loopTurn_angle $edge $step_deg] {*}[loopTurn_rebox $rows $edge]
    return [lappend reply $count [loopTurn_failed $rows]]
}

# Turn the spindle while the DHS looks; return a dict of the rows by the number of the picture, each
# "normal tipX tipY pinBaseX fiberWidth loopWidth boxMinX boxMaxX boxMinY boxMaxY ..." or "failed why".
proc loopTurn_collect { delta_deg time_s } {
    set rows [dict create]
    set series [start_waitable_operation collectLoopImages]
    while {[lindex [set answer [wait_for_operation $series 30000]] 0] == "update"} {
        set answer [lindex $answer 1]
        switch -- [lindex $answer 0] {
            start_oscillation {
                start_oscillation gonio_phi video_trigger $delta_deg $time_s
                wait_for_devices gonio_phi
                wait_for_operation_to_finish [start_waitable_operation stopCollectLoopImages]
            }
            LOOP_INFO {
                dict set rows [lindex $answer 1] [lrange $answer 2 end]
            }
        }
    }
    return $rows
}

# Return the number of the picture with the highest loop.
proc loopTurn_widest { rows } {
    set best -1
    set height 0.0
    dict for {index row} $rows {
        if {[lindex $row 0] == "normal" && [lindex $row 5] > $height} {
            set best $index
            set height [lindex $row 5]
        }
    }
    if {$best < 0} {
        return -code error "loopTurn: no loop in [dict size $rows] pictures"
    }
    return $best
}

# Return the number of the good picture nearest to a place, half a turn being the same place.
proc loopTurn_nearest { rows place period } {
    set best -1
    set least 1e9
    dict for {index row} $rows {
        set away [expr {abs(fmod($index - $place + 10.5 * $period, $period) - 0.5 * $period)}]
        if {[lindex $row 0] == "normal" && $away < $least} {
            set best $index
            set least $away
        }
    }
    return $best
}

# Return the upper and the lower end of the loop in a picture, measured within its box.
proc loopTurn_rebox { rows index } {
    lassign [lrange [dict get $rows $index] 6 7] minX maxX
    set asked [start_waitable_operation reboxLoopImage $index $minX $maxX]
    return [lrange [wait_for_operation_to_finish $asked] 2 3]
}

proc loopTurn_angle { index step_deg } {
    return [format %.2f [expr {($index + 0.5) * $step_deg}]]
}

proc loopTurn_failed { rows } {
    return [llength [lsearch -all -index 0 -not [dict values $rows] normal]]
}
